"""Edited modules that are called with another number of axes: one sample without a batch, a part alone, more axes.

The reference is the operator written by hand, over the tokens of that call.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import SurgeryError

WIDTH, TOKENS = 8, 5
CLOSE = 1e-6
"""Absolute, on outputs of order one in float32."""


class Network(nn.Module):
    """Works for tokens with any number of axes in front."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def edited() -> nn.Module:
    module = Network().eval()
    cbs.insert_(module, op="cb", layers="all", inputs=noise(3, TOKENS, WIDTH))
    return module


CALLS: dict[str, Callable[[nn.Module], Tensor]] = {
    "one-sample": lambda module: module(noise(TOKENS, WIDTH)),
    "square": lambda module: module(noise(WIDTH, WIDTH)),
    "more-axes": lambda module: module(noise(2, 3, TOKENS, WIDTH)),
    "vmap": lambda module: torch.vmap(module)(noise(3, TOKENS, WIDTH)),
    "a-part": lambda module: module.get_submodule("fc2")(noise(TOKENS, 16)),
    "compiled": lambda module: torch.compile(module, backend="eager")(noise(TOKENS, WIDTH)),
}


@pytest.mark.parametrize("name", CALLS)
def test_another_number_of_axes_is_refused(name: str) -> None:
    assert CALLS[name](Network().eval()).shape[-1] == WIDTH
    with pytest.raises(SurgeryError, match="axes instead of 3") as raised:
        CALLS[name](edited())
    assert raised.value.code == "CB-SURGERY-15"


@pytest.mark.parametrize("shape", [(1, TOKENS, WIDTH), (4, 9, WIDTH)])
def test_another_batch_or_number_of_tokens_is_right(shape: tuple[int, ...]) -> None:
    x, plain, module = noise(*shape), Network().eval(), edited()
    with torch.no_grad():
        y = plain(x) - x
        expected = x + (y + y.mean(1, keepdim=True)) / 2
        assert torch.allclose(module(x), expected, atol=CLOSE)
        assert torch.allclose(torch.vmap(lambda one: module(one[None])[0])(x), expected, atol=CLOSE)
