"""Padding that is told by numbers, by the tokens themselves, or only to the mean at the end of a model.

The reference runs the network itself: tokens are marked as absent, their content is changed, and nothing else may move.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import SurgeryError

WIDTH, TOKENS, KEPT = 8, 9, 3
MOVED = 1e-6
"""Of outputs of order one in float32; a mean over nine tokens moves by 1e-2."""

PLACE = torch.arange(TOKENS)
NAN, INF = float("nan"), float("inf")


How = Callable[[Tensor, Tensor], Tensor]


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


def mean(x: Tensor, keep: Tensor) -> Tensor:
    return (x * keep[..., None]).sum(1, keepdim=True) / keep.sum(1)[:, None, None]


class Network(nn.Module):
    """Two MLPs; the mean of the tokens that count is added before each (``mixes``), or is the output."""

    def __init__(self, how: How, *, mixes: bool = True, largest: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.place = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.mlps, self.how, self.mixes, self.largest = nn.ModuleList([Mlp(), Mlp()]), how, mixes, largest

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        keep = self.how(x, given).to(x.dtype)
        x = self.embed(x.nan_to_num(0.0, 0.0, 0.0)) + self.place
        for mlp in self.mlps:
            x = mlp(x + mean(x, keep) if self.mixes else x)
        if self.largest:
            return x.masked_fill(keep[..., None] == 0, float("-inf")).amax(1)
        return x if self.mixes else mean(x, keep)


@dataclass(frozen=True)
class Case:
    """How a network reads what it is given: an example that marks no token, and the same that marks those from
    :data:`KEPT` on."""

    how: How
    given: Tensor
    marked: Tensor
    mixes: bool = True
    largest: bool = False

    def network(self) -> nn.Module:
        return Network(self.how, mixes=self.mixes, largest=self.largest).eval()


def both(*row: float) -> Tensor:
    return torch.tensor([row, row])


ROW, SHORT = torch.ones(2, TOKENS), (PLACE < KEPT).float().expand(2, -1).clone()
CASES = {
    "fraction": Case(lambda x, g: (g * TOKENS).round()[:, None] > PLACE, torch.ones(2), torch.full((2,), 1 / 3)),
    "fraction-at-the-end": Case(
        lambda x, g: (g * TOKENS).round()[:, None] > PLACE, torch.ones(2), torch.full((2,), 1 / 3), mixes=False
    ),
    "finer-length": Case(
        lambda x, g: (g // 4)[:, None] > PLACE, torch.tensor([36, 36]), torch.tensor([4 * KEPT, 4 * KEPT])
    ),
    "start-and-end": Case(
        lambda x, g: (g[:, :1] <= PLACE) & (g[:, 1:] > PLACE), both(0, TOKENS).long(), both(0, KEPT).long()
    ),
    "rows-and-columns": Case(
        lambda x, g: (g[:, :1] > PLACE // 3) & (g[:, 1:] > PLACE % 3), both(3, 3).long(), both(1, 3).long()
    ),
    "negative-number": Case(
        lambda x, g: g >= 0, torch.full((2, TOKENS), 2), torch.where(PLACE < KEPT, 2, -1).expand(2, -1).clone()
    ),
    "plus-and-minus": Case(lambda x, g: (g + 1) / 2, ROW, 2 * SHORT - 1),
    "mean-at-the-end": Case(lambda x, g: g, ROW, SHORT, mixes=False),
    "largest-at-the-end": Case(lambda x, g: g, ROW.bool(), SHORT.bool(), mixes=False, largest=True),
    "ids-at-the-end": Case(lambda x, g: g.ne(0), 5 * ROW.long(), 5 * SHORT.long(), mixes=False),
}


def noise() -> Tensor:
    return torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


def moves(module: nn.Module, given: Tensor, looked: slice) -> bool:
    """Whether changing the tokens from :data:`KEPT` on moves some of the results."""
    x, changed = noise(), noise()
    changed[:, KEPT:] *= -3
    with torch.no_grad():
        return bool((module(x, given) - module(changed, given))[:, looked].abs().max() > MOVED)


@pytest.mark.parametrize("name", CASES)
def test_absent_tokens_are_noticed(name: str) -> None:
    case, looked = CASES[name], slice(KEPT)
    module = case.network()
    assert moves(module, case.given, looked)
    assert not moves(module, case.marked, looked)
    found = cbs.inspect(cbs.Model(module, (noise(), case.given)))
    assert len(found.blocks) == 2
    with pytest.raises(SurgeryError) as refused:
        cbs.plan(found, op="cb", layers="all")
    assert refused.value.code == "CB-LEAK-02"


@pytest.mark.parametrize(
    ("value", "how"),
    [
        (0.0, lambda x, given: (x != 0).any(-1)),
        (NAN, lambda x, given: ~x.isnan().any(-1)),
        (INF, lambda x, given: ~x.isinf().any(-1)),
        (-INF, lambda x, given: (x > -INF).all(-1)),
        (-100.0, lambda x, given: (x != -100).any(-1)),
        (-11.5, lambda x, given: x.mean(-1) > -5),
    ],
)
@pytest.mark.parametrize("mixes", [True, False])
def test_tokens_that_say_that_they_are_absent_are_noticed(value: float, how: How, mixes: bool) -> None:
    module, x = Network(how, mixes=mixes).eval(), noise()
    x[:, KEPT:] = value
    with torch.no_grad():
        plain = module(x, torch.zeros(2))[:, :KEPT]
        module.place[KEPT:] += 1  # what stands where the absent tokens are
        assert torch.equal(module(x, torch.zeros(2))[:, :KEPT], plain)
        assert not torch.equal(module(noise(), torch.zeros(2))[:, :KEPT], plain)
    found = cbs.inspect(cbs.Model(module, (noise(), torch.zeros(2))))
    with pytest.raises(SurgeryError) as refused:
        cbs.plan(found, op="cb", layers="all")
    assert refused.value.code == "CB-LEAK-02"


def scaled(x: Tensor, given: Tensor) -> Tensor:
    return x.new_ones(x.shape[:2]) * (1 + given.float().reshape(len(given), -1).mean(1)[:, None])


@pytest.mark.parametrize("given", [torch.tensor([500, 20]), torch.tensor([0.5, 0.9]), both(3, 3)])
@pytest.mark.parametrize("mixes", [True, False])
def test_numbers_that_hide_nothing_are_free(given: Tensor, mixes: bool) -> None:
    """A step of diffusion, a share of noise, a size: they scale the tokens."""
    module = Network(scaled, mixes=mixes)
    found = cbs.inspect(cbs.Model(module.eval(), (noise(), given)))
    assert len(cbs.plan(found, op="cb", layers="all")) == 2
