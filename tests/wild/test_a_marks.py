"""Tokens that are hidden because of several numbers of an input together, or of a number that no comparison names.

The reference runs the network itself: tokens of each sample are changed one by one, and the outputs of that sample are
compared.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import SurgeryError
from tests.wild.test_a_order import LOWER, MOVED, PLACE, TOKENS, Marks, Mix, Mixer, Network, keys, noise, sees

ORDINARY = torch.full((2, TOKENS), 50)
HASHED = next(number for number in range(51, 1000) if number * 7919 % 1000 == 13)
TABLE = torch.ones(1000)
TABLE[77] = 0


def marked(*given: tuple[int, int]) -> Tensor:
    """The example with the second number of each pair at the place that is the first."""
    row = ORDINARY.clone()
    for place, number in given:
        row[:, place] = number
    return row


def one_hot(place: int) -> Tensor:
    return nn.functional.one_hot(torch.full((2,), place), TOKENS + 1).float()


TASKS = torch.stack([torch.ones(TOKENS), (PLACE < 7).float()])


def depth(given: Tensor) -> Tensor:
    """The number of marks 2 so far, less that of marks 3."""
    return given.eq(2).cumsum(1) - given.eq(3).cumsum(1)


def paired(given: Tensor) -> Tensor:
    return given.eq(4) & given.roll(1, 1).eq(5)


HIDING = {
    "between-two-marks": Marks(lambda m, x, g: m(x, keys(depth(g) == 0)), marked(), marked((3, 2), (6, 3)), [3, 4, 5]),
    "groups-between-marks": Marks(
        lambda m, x, g: m(x, (depth(g)[:, :, None] == depth(g)[:, None]).float()),
        marked(),
        marked((3, 2), (6, 3)),
        [3, 4, 5],
    ),
    "behind-the-second-mark": Marks(
        lambda m, x, g: m(x, keys(g.eq(70).cumsum(1) < 2)), marked(), marked((2, 70), (5, 70)), [5, 6, 7, 8]
    ),
    "behind-another-mark": Marks(lambda m, x, g: m(x, keys(~paired(g))), marked(), marked((4, 5), (5, 4)), [5]),
    "remainder": Marks(lambda m, x, g: m(x, keys(g * 7919 % 1000 != 13)), marked(), marked((4, HASHED)), [4]),
    "difference": Marks(lambda m, x, g: m(x, keys((g - 77).abs().clamp(max=1))), marked(), marked((4, 77)), [4]),
    "table": Marks(lambda m, x, g: m(x, keys(TABLE[g])), marked(), marked((4, 77)), [4]),
    "one-hot-length": Marks(
        lambda m, x, g: m(x, keys(g.argmax(1)[:, None] > PLACE)), one_hot(TOKENS), one_hot(5), [5, 6, 7, 8]
    ),
    "one-hot-task": Marks(lambda m, x, g: m(x, keys(g @ TASKS)), one_hot(0)[:, :2], one_hot(1)[:, :2], [7, 8]),
    "range": Marks(lambda m, x, g: m(x, keys((g < 60) | (g > 90))), marked(), marked((4, 80)), [4]),
}


def refused(module: nn.Module, given: Tensor) -> None:
    found = cbs.inspect(cbs.Model(module, (noise(TOKENS, 8), given)))
    assert len(found.blocks) == 2
    with pytest.raises(SurgeryError) as error:
        cbs.plan(found, op="cb", layers="all")
    assert error.value.code == "CB-LEAK-02"


@pytest.mark.parametrize("name", HIDING)
def test_numbers_that_hide_tokens_together_are_found(name: str) -> None:
    case = HIDING[name]
    module, x = Network(case.mix).eval(), noise(TOKENS, 8)
    shown = [token for token in range(TOKENS) if token not in case.hidden]
    assert bool(sees(module, x, case.plain).all())
    assert not bool(sees(module, x, case.marked)[:, case.hidden][:, :, shown].any())
    refused(module, case.plain)


class Pooled(nn.Module):
    """Tokens that do not see each other, and the mean of those that are not between two marks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Network(lambda mixer, x, given: mixer.out(mixer.norm(x)))

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        keep = keys(depth(given) == 0).mT
        return (self.layers(x, given) * keep).sum(1) / keep.sum(1)


def test_tokens_that_a_mean_leaves_out_between_two_marks_are_found() -> None:
    module, x, marks = Pooled().eval(), noise(TOKENS, 8), marked((3, 2), (6, 3))
    changed = x.clone()
    changed[:, 4] += 1
    with torch.no_grad():
        moved = [float((module(changed, given) - module(x, given)).abs().max()) for given in (marked(), marks)]
    assert moved[0] > MOVED and moved[1] == 0
    refused(module, marked())


def to_marked(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    """Marked tokens get a vector more, and other weights."""
    mark = given.eq(70)[..., None]
    return mixer(x, torch.ones(TOKENS, TOKENS)) + torch.where(mark, mixer.out(x), mixer.norm(x)) + mark * x.new_ones(8)


def with_bias(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    return mixer(x, 1 + given.eq(70).float()[:, None])


@pytest.mark.parametrize("mix", [to_marked, with_bias])
def test_numbers_that_hide_nothing_are_free(mix: Mix) -> None:
    module, x, marks = Network(mix).eval(), noise(TOKENS, 8), marked((3, 70), (6, 70))
    assert bool(sees(module, x, marks).all())
    found = cbs.inspect(cbs.Model(module, (x, marked())))
    assert len(cbs.plan(found, op="cb", layers="all")) == 2


def by_flag(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    """Causal for the flag 1, open for 0."""
    return mixer(x, torch.where(given[:, None, None] > 0, LOWER, torch.ones(())))


@pytest.mark.parametrize("flags", [torch.zeros(2).long(), torch.tensor([False, True]), torch.zeros(2)])
def test_a_flag_that_makes_a_model_causal_is_named_as_an_order(flags: Tensor) -> None:
    module, x = Network(by_flag).eval(), noise(TOKENS, 8)
    assert bool(sees(module, x, torch.zeros_like(flags)).all())
    assert not bool(sees(module, x, torch.ones_like(flags)).tril(-1).any())
    found = cbs.inspect(cbs.Model(module, (x, flags)))
    with pytest.raises(SurgeryError, match="given decide which tokens see which; if it always holds one") as error:
        cbs.plan(found, op="cb", layers="all")
    assert error.value.code == "CB-LEAK-10"
