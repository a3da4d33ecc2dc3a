"""The measures of a difference and the tolerances, calculated by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cbsurgeon.checks.parity import difference as compare
from cbsurgeon.checks.parity import tolerance as policy
from cbsurgeon.checks.parity.inputs.images import Agreement

INF, NAN = math.inf, math.nan
EPS32, EPS16 = 2.0**-23, 2.0**-10
"""Distance from 1 to the next number of float32 and float16."""


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_distances_of_numbers_that_are_not_finite() -> None:
    a = numbers(1.0, INF, INF, NAN, NAN, -INF)
    b = numbers(3.0, INF, 1.0, NAN, 1.0, INF)
    assert compare.difference(a, b).tolist() == [2.0, 0.0, INF, 0.0, INF, INF]


def test_whole_numbers_that_float64_cannot_tell_apart_differ() -> None:
    a, b = torch.tensor([2**53, 7]), torch.tensor([2**53 + 1, 7])
    assert compare.difference(a, b).tolist() == [1.0, 0.0]
    assert compare.difference(torch.tensor([True, False]), torch.tensor([False, False])).tolist() == [1.0, 0.0]


def test_an_excess_is_what_the_relative_tolerance_leaves() -> None:
    gap, b = numbers(1.0, 0.5, 3.0), numbers(-4.0, 10.0, INF)
    assert compare.excess(gap, b, 0.1).tolist() == pytest.approx([0.6, 0.0, 3.0])
    assert compare.passing_atol(gap, b, 0.1) == pytest.approx(3.0)
    assert compare.passing_atol(torch.empty(0), torch.empty(0), 0.1) == 0.0


def test_the_used_share_is_the_largest_ratio() -> None:
    assert compare.share_used(numbers(1.0, 3.0), numbers(4.0, 2.0)) == 1.5
    assert compare.share_used(numbers(0.0, 0.0), numbers(0.0, 1.0)) == 0.0
    assert compare.share_used(numbers(1e-9), numbers(0.0)) == INF
    assert compare.share_used(torch.empty(0), torch.empty(0)) == 0.0


def test_relative_distances() -> None:
    assert compare.relative_l2(numbers(3.0, 4.0), numbers(0.0, 10.0)) == pytest.approx(0.5)
    assert compare.relative_l2(numbers(0.0), numbers(0.0)) == 0.0
    assert compare.relative_l2(numbers(1e-9), numbers(0.0)) == INF


def test_root_mean_squares() -> None:
    assert compare.root_mean_square(numbers(3.0, -4.0, INF, NAN)) == pytest.approx(math.sqrt(12.5))
    assert compare.root_mean_square(numbers(2.0)) == 2.0
    assert compare.root_mean_square(numbers(INF)) == 0.0


def test_cosines() -> None:
    assert compare.cosine(numbers(1.0, 0.0), numbers(1.0, 1.0)) == pytest.approx(1 / math.sqrt(2))
    assert compare.cosine(numbers(3.0, 4.0), numbers(-6.0, -8.0)) == pytest.approx(-1.0)
    assert compare.cosine(numbers(0.0, 0.0), numbers(0.0, 0.0)) == 1.0
    assert compare.cosine(numbers(0.0, 0.0), numbers(0.0, 1.0)) == 0.0


def test_only_rows_of_scores_are_classes() -> None:
    a, b = torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 2.0]])
    assert compare.top1(a, b) == 0.5
    others = (torch.zeros(2), torch.zeros(2, 1), torch.zeros(0, 2), torch.zeros(2, 2, dtype=torch.int64))
    assert [compare.top1(other, other) for other in others] == [None] * 4
    assert [compare.clear_disagreements(other, other, 0.0) for other in others] == [0] * 4
    assert compare.clear_disagreements(a, b, 0.999) == 1
    assert compare.clear_disagreements(a, b, 1.0) == 0


def test_the_noise_of_an_output() -> None:
    """One value is 0.5 away from float64, one is infinite, and one rounding is allowed everywhere."""
    exact = numbers(3.0, -4.0, 0.0, 12.0).reshape(2, 2)
    value = numbers(3.5, -4.0, 0.0, INF).reshape(2, 2)
    found = policy.floor_of(value, exact, "float16")
    assert found.max_abs == 0.5
    assert found.rel_l2 == pytest.approx(0.5 / 13)
    assert found.rms == pytest.approx(13 / 2)
    assert found.groups[1].tolist() == pytest.approx([0.5, 12 * EPS16])
    assert set(found.groups) == {1}, "axis 0 is the batch"
    assert found.exact_finite and not found.finite
    exactly = policy.floor_of(exact, exact, "float16")
    assert (exactly.max_abs, exactly.rel_l2) == (12 * EPS16, EPS16)
    assert exactly.finite and exactly.exact_finite
    assert not policy.floor_of(value, value, "float16").exact_finite


def test_the_noise_of_two_models_adds_up() -> None:
    first = policy.Floor(1.0, 0.1, 3.0, {1: numbers(1.0, 2.0), 2: numbers(1.0)}, True, True)
    second = policy.Floor(0.25, 0.3, 2.0, {1: numbers(0.5, 0.25)}, False, True)
    both = first + second
    assert (both.max_abs, both.rms, both.exact_finite, both.finite) == (1.25, 3.0, False, True)
    assert both.rel_l2 == pytest.approx(0.4)
    assert {axis: noise.tolist() for axis, noise in both.groups.items()} == {1: [1.5, 2.25]}
    assert not (first + policy.Floor(0.0, 0.0, finite=False)).finite


def test_estimates_follow_from_dtype_and_depth() -> None:
    """Sixteen roundings of the mean size, times the square root of nine matrix products."""
    found = policy.estimated(("float32", "float16"), 9, 10.0, "no reference")
    relative = 16 * 3 * (EPS32 + EPS16) / 2
    assert found.atol == pytest.approx(10 * relative)
    assert found.rel_l2 == pytest.approx(relative)
    assert (found.rtol, found.source) == (EPS16, "estimated")
    assert policy.estimated(("float16", "float16"), 10_000, 1.0, "").rel_l2 == policy.CEILING["float16"]
    assert policy.estimated(("float32", "float32"), 0, 1.0, "").atol == pytest.approx(16 * EPS32)


def test_a_measured_tolerance_of_an_output_that_is_zero() -> None:
    floor = policy.Floor(1e-3, 1e-5, 1.0)
    found = policy.measured(floor, "float32", "generated", 0.0)
    assert (found.atol, found.rel_l2) == (pytest.approx(4e-3), pytest.approx(4e-5))


def test_a_tolerance_of_the_user() -> None:
    assert policy.given(None, None) is None
    for atol, rtol in ((1e-3, None), (None, 1e-2), (1e-3, 1e-2)):
        found = policy.given(atol, rtol)
        assert found is not None
        assert (found.atol, found.rtol, found.rel_l2) == (atol or 0.0, rtol or 0.0, None)


def test_the_agreement_on_images() -> None:
    """Two of four images have the same top class; of the others, A's lead by 2 and by 5."""
    found = Agreement()
    first = {"hidden": torch.zeros(2, 3, 4), "one": torch.zeros(2, 1), "scores": torch.tensor([[3.0, 1.0], [0.0, 2.0]])}
    second = torch.tensor([[6.0, 1.0], [1.0, 0.0]])
    found.add({"hidden": torch.zeros(2, 3, 4)}, {"hidden": torch.zeros(2, 3, 4)})
    assert found.to_dict("none") is None
    found.add(first, {**first, "scores": torch.tensor([[1.0, 2.0], [0.0, 9.0]])})
    found.add({"scores": second}, {"scores": torch.tensor([[0.0, 1.0], [1.0, 0.0]])})
    assert found.to_dict("folder") == {"data": "folder", "samples": 4, "top1": 0.5, "largest_margin_lost": 5.0}
    two = Agreement()
    two.add({"scores": torch.tensor([[3.0, 1.0], [5.0, 1.0]])}, {"scores": torch.tensor([[1.0, 3.0], [3.0, 1.0]])})
    assert (two.samples, two.same, two.lost) == (2, 1, 2.0)
