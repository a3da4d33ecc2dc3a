"""Causal masks that are multiplied with the attention weights after the softmax: no mask of the scores shows them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import SurgeryError
from cbsurgeon.models.model import Model

WIDTH, TOKENS = 8, 6
CLOSE = 1e-5
"""Absolute, on outputs of order one in float32: the sum that the mask leaves is divided out again."""

STEPS = 42
"""More layout steps than a search for the values follows."""


class Layers(nn.Module):
    """Attention and an MLP twice; the mask comes directly after the softmax, or after many layout steps."""

    def __init__(self, *, masked: bool, steps: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH)) for _ in range(2)
        )
        self.masked, self.steps = masked, steps

    def forward(self, x: Tensor) -> Tensor:
        for qkv, mlp in zip(self.qkv, self.mlps, strict=True):
            q, k, v = qkv(x).chunk(3, -1)
            weights = (q @ k.transpose(-2, -1)).softmax(-1)
            for _ in range(self.steps):
                weights = weights.transpose(-2, -1)
            if self.masked:
                weights = weights * torch.ones(TOKENS, TOKENS).tril()
                weights = weights / weights.sum(-1, keepdim=True)
            x = x + weights @ v
            x = x + mlp(x)
        return x


@pytest.mark.parametrize("steps", [0, 2, STEPS])
def test_a_mask_on_the_weights_makes_a_stack_causal(steps: int) -> None:
    module = Layers(masked=True, steps=steps).eval()
    x = torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, -1] += 1.0
    gap = (module(x) - module(other))[:, :-1].abs().max()
    assert gap < CLOSE, "no token sees the last one"
    with pytest.raises(SurgeryError, match="CB-LEAK-01"):
        cbs.plan(cbs.inspect(Model(module, (x,))), op="cb", layers="all")


@pytest.mark.parametrize("steps", [0, 2, STEPS])
def test_the_same_stack_without_the_mask_is_not(steps: int) -> None:
    x = torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    found = cbs.inspect(Model(Layers(masked=False, steps=steps).eval(), (x,)))
    assert len(cbs.plan(found, op="cb", layers="all").sites) == 2
