"""The leak probes on models of a few lines: which input is the sequence, and what a fixed number of tokens leaves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cbsurgeon.checks.leaks import future_leak, padding_leak
from cbsurgeon.checks.leaks.probes import _sequence
from cbsurgeon.errors import UsageError
from cbsurgeon.models.model import Model

BATCH, TOKENS, WIDTH = 2, 8, 4


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Masked(nn.Module):
    """Adds a mean over tokens: of those that are no padding, or of all; optionally for eight tokens only."""

    def __init__(self, *, leaks: bool, fixed: bool, pooled: bool = False) -> None:
        super().__init__()
        self.leaks, self.fixed, self.pooled = leaks, fixed, pooled

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.fixed and x.shape[1] != TOKENS:
            raise ValueError(f"takes {TOKENS} tokens")
        weights = torch.ones_like(mask) if self.leaks else mask
        mean = (x * weights[..., None]).sum(1, keepdim=True) / weights.sum(1)[:, None, None]
        return mean[:, 0] if self.pooled else x + mean


def masked(**how: bool) -> Model:
    inputs = {"x": numbers(BATCH, TOKENS, WIDTH), "mask": torch.ones(BATCH, TOKENS)}
    return Model(Masked(**how).eval(), example_kwargs=inputs)


@pytest.mark.parametrize("pooled", [False, True], ids=["tokens", "one vector"])
@pytest.mark.parametrize("leaks", [False, True])
def test_padding_of_any_length(leaks: bool, pooled: bool) -> None:
    found = padding_leak(masked(leaks=leaks, fixed=False, pooled=pooled), mask="mask")
    assert {gap.probe for gap in found.gaps} == {"filler", "length", "alone"}
    assert found.not_run == {} and found.ok is not leaks


@pytest.mark.parametrize("leaks", [False, True])
def test_a_model_of_a_fixed_length_is_probed_with_other_padding(leaks: bool) -> None:
    """The probes that cut the padding off cannot run, which the result says."""
    found = padding_leak(masked(leaks=leaks, fixed=True), mask="mask")
    assert {gap.probe for gap in found.gaps} == {"filler"} and found.ok is not leaks
    said = "the model does not run with 6 tokens: takes 8 tokens"
    assert found.not_run == {"length": said, "alone": said}


class Shifted(nn.Module):
    """Adds to each token the one before it, or the one after it; ``scale`` is no sequence."""

    def __init__(self, *, leaks: bool) -> None:
        super().__init__()
        self.shift = -1 if leaks else 1

    def forward(self, scale: Tensor, x: Tensor, other: Tensor) -> Tensor:
        return x + scale * x.roll(self.shift, 1) * (torch.arange(x.shape[1]) > 0)[:, None]


def shifted(*, leaks: bool) -> Model:
    inputs = {"scale": torch.ones(BATCH, 1, 1), "x": numbers(BATCH, TOKENS, WIDTH), "other": numbers(BATCH, TOKENS)}
    return Model(Shifted(leaks=leaks).eval(), example_kwargs=inputs)


@pytest.mark.parametrize("leaks", [False, True])
def test_the_first_input_with_tokens_is_the_sequence(leaks: bool) -> None:
    found = future_leak(shifted(leaks=leaks))
    assert " of x were changed" in found.what and found.ok is not leaks


def test_an_input_on_which_nothing_depends_shows_nothing() -> None:
    with pytest.raises(UsageError, match="CB-LEAK-05"):
        future_leak(shifted(leaks=True), sequence="other")


@pytest.mark.parametrize("name", ["scale", "absent"])
def test_what_is_no_sequence_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="CB-LEAK-04") as refused:
        future_leak(shifted(leaks=True), sequence=name)
    assert refused.value.do == "use one of x, other"


def test_an_axis_without_two_tokens_is_no_sequence() -> None:
    model = shifted(leaks=True)
    inputs = {"empty": torch.zeros(2, 0), "one": torch.zeros(2, 1), "flat": torch.zeros(9), "two": torch.zeros(2, 2)}
    assert _sequence(model, inputs, None, 1) == "two"
    with pytest.raises(UsageError, match="CB-LEAK-04"):
        _sequence(model, inputs, None, 2)
