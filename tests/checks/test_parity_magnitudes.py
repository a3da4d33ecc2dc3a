"""Differences that only small, zero or large inputs show."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cbsurgeon.checks import verify
from cbsurgeon.checks.parity import comparison
from cbsurgeon.checks.parity.inputs import plan
from cbsurgeon.checks.parity.inputs.feed import Source
from cbsurgeon.checks.parity.inputs.plan import SMALL_MAGNITUDE, feeds
from cbsurgeon.deploy.casting import DTYPES, cast
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model

TOKENS, CHANNELS = 5, 16


class Normalized(nn.Module):
    """Two projections around a normalization; no biases in front, so a small input has a small variance there."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Linear(CHANNELS, CHANNELS, bias=False), nn.LayerNorm(CHANNELS, eps=epsilon)
        self.last = nn.Linear(CHANNELS, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))


class Unit(nn.Module):
    """A linear layer and a unit that is active only where an input is above 6, or below -6; a ReLU6 has such units."""

    def __init__(self, weight: float, sign: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.weight, self.sign = nn.Linear(CHANNELS, 8), weight, sign

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + self.weight * (self.sign * x.mean((1, 2), keepdim=True) - 6.0).relu()


def model(module: nn.Module) -> Model:
    return Model(module.eval(), (torch.randn(2, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(0)),))


@pytest.mark.parametrize(("right", "wrong"), [(1e-6, 1e-12), (1e-12, 1e-6), (1e-5, 1e-6)])
@pytest.mark.parametrize("batches", [(1,), (1, 2, 7)])
def test_the_epsilon_of_a_normalization(right: float, wrong: float, batches: tuple[int, ...]) -> None:
    first, second = model(Normalized(right)), model(Normalized(wrong))
    assert verify(first, first, batches=batches).ok
    found = verify(first, second, batches=batches)
    assert not found.ok and found.worst.inputs == "small", str(found)


def test_a_normalization_without_epsilon_has_no_value_at_zero() -> None:
    right, none = model(Normalized(1e-12)), model(Normalized(0.0))
    assert none.module(torch.zeros(1, TOKENS, CHANNELS)).isnan().all()
    found = verify(right, none)
    assert not found.ok and any("NaN" in row.reason for row in found.rows if row.inputs == "small")
    found = verify(none, none)
    assert found.ok, "it has none itself"
    assert any(
        "not compared on small inputs, for which the model itself returns NaN or infinity" in n for n in found.notes
    )


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("batches", [(1,), (2,)])
def test_a_unit_that_is_active_far_from_zero_only(sign: float, batches: tuple[int, ...]) -> None:
    """Means of 80 numbers of size 1 are below 1; those of the large inputs have both signs."""
    right, without = model(Unit(1.0, sign)), model(Unit(0.0, sign))
    x = torch.randn(100, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(1))
    assert torch.equal(right.module(x), without.module(x)), "ordinary inputs do not show it"
    assert verify(right, right, batches=batches).ok
    found = verify(right, without, batches=batches)
    assert {row.inputs for row in found.rows if not row.ok} == {"large"}


def test_the_magnitudes_of_each_batch() -> None:
    source = Source(capture(model(Unit(1.0, 1.0))), (), {})
    made = {feed.label: feed.tensors["x"] for feed in feeds(source, (1, 3), None)}
    drawn = source.draw(3)["x"]
    assert torch.equal(made["large"][1], -made["large"][0]) and made["large"][2].abs().max() > 64
    assert torch.equal(made["small"], drawn * torch.tensor([SMALL_MAGNITUDE, 0.0, SMALL_MAGNITUDE])[:, None, None])
    halves = next(feed for feed in feeds(source, (1, 3), None, zero=False) if feed.label == "small").tensors["x"]
    assert torch.equal(halves[1], -SMALL_MAGNITUDE * drawn[1]), "16-bit types have no input of zeros"


def test_an_input_without_samples_is_multiplied_as_a_whole() -> None:
    x = torch.tensor([[3.0, -5.0], [7.0, 0.5]])
    assert torch.equal(plan._times(x, None, (0.5, 0.0)), torch.tensor([[1.5, -2.5], [3.5, 0.25]]))
    assert torch.equal(plan._repeated(x, None), x)


@pytest.mark.parametrize(("dtype", "zero"), [(None, True), ("float16", False), ("bfloat16", False)])
def test_zero_is_an_input_for_full_precision_only(
    dtype: str | None, zero: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = model(Normalized(1e-5))
    asked: list[bool] = []

    def feeds(*given: Any, **named: Any) -> Any:
        asked.append(named["zero"])
        return plan.feeds(*given, **named)

    monkeypatch.setattr(comparison, "feeds", feeds)
    other = capture(right) if dtype is None else cast(capture(right), DTYPES[dtype])
    assert verify(right, other, batches=(2,)).ok
    assert asked == [zero]
