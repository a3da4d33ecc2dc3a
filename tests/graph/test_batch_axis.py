"""Whether one sample changes with the values of another, on inputs that are equal everywhere, too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cbsurgeon.graph.attention.samples import influence
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model

SHAPE = (3, 4, 8)
INPUTS = {
    "drawn": torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)),
    "zeros": torch.zeros(SHAPE),
    "ones": torch.ones(SHAPE),
    "alike": torch.arange(8.0).expand(SHAPE).clone(),
}


class Samples(nn.Module):
    """A layer, and optionally the mean over the samples; a second output that no sample shares."""

    def __init__(self, *, mixes: bool, first: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.mixes, self.first = nn.Linear(8, 8), mixes, first

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.fc(x)
        mixed = y + y.mean(0, keepdim=True) if self.mixes else y
        return (mixed, y.square()) if self.first else (y.square(), mixed)


@pytest.mark.parametrize("values", INPUTS)
@pytest.mark.parametrize("first", [True, False], ids=["first output", "second output"])
def test_a_mean_over_samples_is_noticed(values: str, first: bool) -> None:
    said = influence(capture(Model(Samples(mixes=True, first=first).eval(), (INPUTS[values],))))
    assert said == f"output output_{0 if first else 1} of one sample changes with the values of another"


@pytest.mark.parametrize("values", INPUTS)
def test_samples_on_their_own_are_not(values: str) -> None:
    assert influence(capture(Model(Samples(mixes=False).eval(), (INPUTS[values],)))) == ""
