"""The inputs of a comparison: samples, batch axes, and what is said about the token ids that were compared."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cbsurgeon.checks.parity.inputs.feed import VOCABULARY, Feed, Source
from cbsurgeon.checks.parity.inputs.vocabulary import MOST_BATCHES, MOST_IDS, coverage, covered, vocabulary
from cbsurgeon.deploy.artifact import Port
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model

PORTS = (
    Port("mask", "bool", ("batch", 5)),
    Port("ids", "int64", ("batch", 5)),
    Port("x", "float32", (5, "tokens"), usual={"tokens": 7}),
    Port("fixed", "float32", (2, 5)),
)


def source(rows: int, first: int = 0) -> Source:
    return Source(None, PORTS, {"ids": (first, first + rows - 1)}, {"ids": range(first, first + rows)})


def feed(label: str, *ids: int, given: bool = False) -> Feed:
    return Feed(label, 1, {"ids": torch.tensor([ids]), "x": torch.zeros(1, 2)}, given)


def test_the_first_samples_are_along_the_batch_axis() -> None:
    tensors = {"x": torch.arange(12.0).view(3, 4), "ids": torch.arange(6).view(2, 3), "scale": torch.ones(3)}
    few = Feed("generated", 3, tensors).first(2, {"x": 0, "ids": 1})
    assert few["x"].tolist() == tensors["x"][:2].tolist()
    assert few["ids"].tolist() == tensors["ids"][:, :2].tolist()
    assert few["scale"].tolist() == [1.0, 1.0, 1.0]
    assert Feed("generated", 3, tensors).first(9, {"x": 0})["x"].shape == (3, 4)


def test_batch_axes_of_files_are_open_first_axes() -> None:
    assert source(9).batch_axes == {"mask": 0, "ids": 0}


def test_batch_axes_of_programs_are_the_captured_ones() -> None:
    class Rows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    program = capture(Model(Rows().eval(), (torch.randn(3, 4),)))
    assert Source(program, PORTS, {}).batch_axes == {"x": 0}


def test_ids_that_fit_into_the_batches_are_covered() -> None:
    """A sample has five ids: 128 batches of one sample hold 640 of them, and no more than 8,192 are compared."""
    assert covered(source(100), 1) == {"ids": (100, 100)}
    assert covered(source(700), 1) == {"ids": (5 * MOST_BATCHES, 700)}
    assert covered(source(700), 2) == {"ids": (700, 700)}
    assert covered(source(10_000), 100) == {"ids": (MOST_IDS, 10_000)}


@pytest.mark.parametrize("first", [0, 3])
def test_the_batches_hold_every_id(first: int) -> None:
    feeds = list(vocabulary(source(23, first), 2))
    assert [one.label for one in feeds] == [VOCABULARY] * 3
    seen = torch.cat([one.tensors["ids"].flatten() for one in feeds])
    assert set(seen.tolist()) == set(range(first, first + 23))
    assert all(one.tensors["ids"].shape == (2, 5) for one in feeds)


@pytest.mark.parametrize(
    ("plan", "rows", "notes"),
    [
        ([feed(VOCABULARY, 1, 2, 5, 7)], 100, ["ids: all 100 token ids compared"]),
        ([feed(VOCABULARY, 1, 2, 5, 7)], 1000, ["ids: 640 of 1,000 token ids compared"]),
        ([feed("generated", 1, 2, 5, 7)], 100, []),  # a few ids, which nothing says are all of them
        ([feed("generated", 4)], 100, ["ids: only the value 4 was compared; give others with inputs of your own"]),
        (
            [feed("generated", 4, 9), feed("large", 2)],
            100,
            ["ids: only the values 2, 4, 9 were compared; give others with inputs of your own"],
        ),
        ([feed("generated", 1, 0)], 100, []),
        ([feed("mine", 4, given=True)], 100, []),
        ([], 100, []),
    ],
)
def test_notes_say_which_ids_were_compared(plan: list[Feed], rows: int, notes: list[str]) -> None:
    assert list(coverage(source(rows), plan)) == notes
