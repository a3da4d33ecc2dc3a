"""Models that are read in parts: what the code outside the captured parts hides, and which of its axes is the batch.

The reference is the operator written by hand into the parts, or the model itself with tokens changed.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import SurgeryError

WIDTH, TOKENS, SAMPLES = 8, 9, 3
CLOSE = 1e-5
"""Absolute, on outputs of order one in float32."""


class Part(nn.Module):
    """A residual MLP; ``by_hand`` is the token axis of the operator written into it."""

    by_hand: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(x)
        return x + (y if self.by_hand is None else (y + y.mean(self.by_hand, keepdim=True)) / 2)


class Between(nn.Module):
    """A value decides, which torch.export cannot follow; then tokens are mixed in a subclass's way."""

    axis = 1

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleList([Part(), Part()])
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
            if float(x.sum()) > -1e9:
                x = x + self.out(self.mixed(x, *given))
        return x

    def mixed(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True)


class Causal(Between):
    def mixed(self, x: Tensor) -> Tensor:
        return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]


class Padded(Between):
    def mixed(self, x: Tensor, keep: Tensor) -> Tensor:
        return (x * keep[..., None]).sum(1, keepdim=True) / keep.sum(1)[:, None, None]


class TokensFirst(Between):
    axis = 0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 1)).transpose(0, 1)

    def mixed(self, x: Tensor) -> Tensor:
        return x.mean(0, keepdim=True)


def noise() -> Tensor:
    return torch.randn(SAMPLES, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


def test_causal_code_between_parts_is_noticed() -> None:
    found = cbs.inspect(cbs.Model(Causal().eval(), (noise(),)))
    assert len(found.blocks) == 2
    with pytest.raises(SurgeryError, match="outside the captured parts") as raised:
        cbs.plan(found, op="cb", layers="all")
    assert raised.value.code == "CB-LEAK-01"


def test_an_input_that_hides_tokens_between_parts_is_noticed() -> None:
    found = cbs.inspect(cbs.Model(Padded().eval(), (noise(), torch.ones(SAMPLES, TOKENS))))
    with pytest.raises(SurgeryError) as raised:
        cbs.plan(found, op="cb", layers="all")
    assert raised.value.code == "CB-LEAK-02"


@pytest.mark.thin(2)
@pytest.mark.parametrize("kind", [Between, TokensFirst])
def test_open_code_between_parts_is_free_and_the_mean_is_over_the_tokens(kind: type[Between]) -> None:
    module, x = kind().eval(), noise()
    model = cbs.Model(module, (x,))
    found = cbs.inspect(model)
    assert [block.token_axes for block in found.blocks] == [(kind.axis,)] * 2
    edited = cbs.insert(model, cbs.plan(found, op="cb", layers="all")).module
    for part in module.parts:
        part.by_hand = kind.axis
    with torch.no_grad():
        assert torch.allclose(edited(x), module(x), atol=CLOSE)
