"""The statistics of latency, on timings with a known true ratio."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cbsurgeon.checks.latency.comparison import GROUPS, PROCESSES
from cbsurgeon.checks.latency.statistics import (
    BLOCKS,
    ONE_PROCESS_FLOOR,
    Estimate,
    autocorrelation,
    bounds,
    estimate,
    judge,
    log_ratios,
    order_bounds,
    order_rank,
    pairs_needed,
    student_quantile,
    unit_bounds,
)
from cbsurgeon.checks.latency.verdict import sentence
from tests.checks.synthetic import Machine, ratios

RUNS = 2000
COVERAGE = 0.94  # asked of a 95 % bound: one point for the simulation's own error (2,000 runs: 0.5 points)
FALSE_ALARMS = 0.05
DETECTION = 0.90
CLAIM = 0.01
MACHINES = {
    "shared": Machine(),
    "quiet": Machine(noise=0.005, luck=0.0015),
    "spiky": Machine(outliers=0.15),
    "drifting": Machine(drift=0.3),
    "sluggish": Machine(memory=0.9),
}


@pytest.mark.parametrize(("n", "rank"), [(20, 15), (2000, 1038), (30, 20), (40, 26), (60, 37), (100, 59), (200, 113)])
def test_order_ranks_are_the_tabled_ones(n: int, rank: int) -> None:
    assert order_rank(n, 0.95) == rank


def test_too_few_values_have_no_bound() -> None:
    """Four values all lie above the median once in sixteen times: more than 5 %."""
    assert order_rank(4, 0.95) is None
    low, high = order_bounds(np.zeros(4), 0.95)
    assert (low, high) == (-math.inf, math.inf)
    assert order_rank(5, 0.95) == 5


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 6.314), (2, 2.920), (3, 2.353), (4, 2.132), (9, 1.833), (10, 1.812), (19, 1.729)]
)
def test_student_quantiles_are_the_tabled_ones(freedom: int, quantile: float) -> None:
    assert student_quantile(0.95, freedom) == pytest.approx(quantile, abs=5e-4)


def test_linear_drift_cancels() -> None:
    """In a mirrored group the two samples of each arm have the same mean place."""
    logs = 0.37 * np.arange(6) + np.log(2.0)
    a, b = np.exp(logs[[0, 5]]), np.exp(logs[[1, 4]])
    assert log_ratios(a, 1.02 * b) == pytest.approx(math.log(1.02))


@pytest.mark.parametrize("name", MACHINES)
def test_coverage(name: str) -> None:
    """The truth lies inside either one-sided 95 % bound in at least 94 % of 2,000 runs."""
    measured, _ = ratios(MACHINES[name], 0.004, RUNS, PROCESSES, GROUPS, seed=1)
    low, high = bounds(measured, 0.95)
    assert (high >= math.log(1.004)).mean() >= COVERAGE
    assert (low <= math.log(1.004)).mean() >= COVERAGE


@pytest.mark.parametrize("name", ["shared", "spiky", "drifting"])
def test_coverage_of_one_process(name: str) -> None:
    """The same for one process, whose own luck no bound can see and which is therefore left out."""
    measured, _ = ratios(replace(MACHINES[name], luck=0.0), 0.0, RUNS, 1, 60, seed=2)
    low, high = bounds(measured, 0.95)
    assert (high >= 0).mean() >= COVERAGE
    assert (low <= 0).mean() >= COVERAGE


@pytest.mark.parametrize("name", MACHINES)
def test_a_against_itself_rarely_alarms(name: str) -> None:
    """The control arm's two-sided interval misses "no difference" in at most 5 % of runs."""
    _, control = ratios(MACHINES[name], 0.0, RUNS, PROCESSES, GROUPS, seed=3)
    low, high = bounds(control, 0.975)
    assert ((low > 0) | (high < 0)).mean() <= FALSE_ALARMS


def test_a_planted_slowdown_is_found() -> None:
    """2 % at the recommended budget refutes the claim of 1 % in at least 90 % of runs."""
    measured, _ = ratios(MACHINES["shared"], 0.02, RUNS, PROCESSES, GROUPS, seed=4)
    assert (bounds(measured, 0.95)[0] > math.log1p(CLAIM)).mean() >= DETECTION


def test_bounds_taken_alone_would_be_too_narrow() -> None:
    """Why two bounds: over pooled groups alone, the luck of processes is mistaken for precision."""
    measured, _ = ratios(replace(MACHINES["quiet"], luck=0.005), 0.0, RUNS, PROCESSES, GROUPS, seed=5)
    pooled = order_bounds(measured.reshape(RUNS, -1), 0.95)[1]
    assert (pooled >= 0).mean() < 0.85
    assert (bounds(measured, 0.95)[1] >= 0).mean() >= COVERAGE


def test_verdicts_on_the_shared_machine() -> None:
    """End to end on single runs: equal models are never called slower, 2 % slower ones never negligible at 1 %."""
    outcomes = {
        effect: [
            judge(estimate(list(measured[run])), estimate(list(control[run])), CLAIM, PROCESSES) for run in range(200)
        ]
        for effect, (measured, control) in {
            effect: ratios(MACHINES["quiet"], effect, 200, PROCESSES, GROUPS, seed=6) for effect in (0.0, 0.02)
        }.items()
    }
    assert outcomes[0.0].count("slower") == 0
    assert outcomes[0.0].count("negligible") >= 180
    assert outcomes[0.02].count("negligible") == 0
    assert outcomes[0.02].count("slower") >= 180


def _known(ratio: float, half: float, **changes: object) -> Estimate:
    """An estimate with symmetric bounds."""
    low, high = ratio - half, ratio + half
    made = Estimate(ratio, (low, high), low, high, 0.01, 0.004, 5, 120, 0.0)
    return replace(made, **changes)


FINE = _known(1.0, 0.002)


@pytest.mark.parametrize(
    ("measured", "control", "processes", "outcome"),
    [
        (_known(1.003, 0.004), FINE, 5, "negligible"),
        (_known(1.03, 0.01), FINE, 5, "slower"),
        (_known(1.008, 0.005), FINE, 5, "inconclusive"),
        (_known(1.003, 0.004), _known(1.0, 0.008), 5, "inconclusive"),  # the control arm is not fine enough
        (_known(1.003, 0.004), _known(1.02, 0.005), 5, "inconclusive"),  # A differs from itself
        (_known(1.03, 0.01), _known(1.02, 0.005), 5, "inconclusive"),  # a difference A shows against itself
        (_known(1.20, 0.01), _known(1.02, 0.005), 5, "slower"),  # far beyond what A shows against itself
        (_known(1.003, 0.004), FINE, 1, "inconclusive"),  # one process proves nothing below 2 %
        (_known(0.95, 0.01), FINE, 5, "faster"),
        (_known(0.95, 0.01), FINE, 1, "inconclusive"),  # nor that B is faster by 1 %
        (_known(0.992, 0.004), FINE, 5, "negligible"),  # faster, but not by more than the claim
        (_known(0.97, 0.005), _known(0.97, 0.005), 5, "inconclusive"),  # what A shows against itself
    ],
)
def test_judgement(measured: Estimate, control: Estimate, processes: int, outcome: str) -> None:
    assert judge(measured, control, CLAIM, processes) == outcome


def test_one_process_can_prove_a_coarse_claim() -> None:
    assert judge(_known(1.003, 0.004), FINE, ONE_PROCESS_FLOOR, 1) == "negligible"


def test_needed_pairs_grow_as_the_claim_gets_closer() -> None:
    far, near = (pairs_needed(_known(ratio, 0.02), FINE, CLAIM, 5) for ratio in (1.000, 1.008))
    assert far is not None and near is not None
    assert 120 < far < near
    assert pairs_needed(_known(1 + CLAIM, 0.02), FINE, CLAIM, 5) is None


def test_needed_pairs_settle_it() -> None:
    """A run that was inconclusive because it had too few groups is usually conclusive when it is repeated with the
    recommended number."""
    measured, control = ratios(MACHINES["shared"], 0.0, 50, PROCESSES, 6, seed=7)
    asked = [
        pairs_needed(estimate(list(b)), estimate(list(c)), CLAIM, PROCESSES)
        for b, c in zip(measured, control, strict=True)
        if judge(estimate(list(b)), estimate(list(c)), CLAIM, PROCESSES) == "inconclusive"
    ]
    typical = int(np.median([pairs for pairs in asked if pairs is not None]))
    processes = math.ceil(typical / 6)
    measured, control = ratios(MACHINES["shared"], 0.0, 200, processes, 6, seed=8)
    settled = [
        judge(estimate(list(b)), estimate(list(c)), CLAIM, processes) != "inconclusive"
        for b, c in zip(measured, control, strict=True)
    ]
    assert np.mean(settled) >= 0.5  # the number asked for is where the expected bound meets the claim


def test_one_process_is_cut_into_blocks() -> None:
    assert estimate([np.linspace(-0.01, 0.01, 64)]).units == BLOCKS


def test_fewer_than_six_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 6"):
        estimate([np.zeros(5)])
    assert estimate([np.zeros(3), np.zeros(3)]).groups == 6


def test_autocorrelation_is_seen() -> None:
    rng = np.random.default_rng(0)
    white = rng.standard_normal((5, 200))
    slow = np.cumsum(white, axis=-1)
    assert abs(autocorrelation(white)) < 0.1
    assert autocorrelation(slow) > 0.8


def test_one_unit_has_no_bound() -> None:
    """The mean of one number has no known spread."""
    low, high = unit_bounds(np.array([[0.01]]), 0.95)
    assert (low[0], high[0]) == (-math.inf, math.inf)


SIGMA = 0.01
DEVIATION_ERROR = 0.1
"""The robust deviation of 800 normal numbers has a standard error of 4 %."""


def test_the_robust_deviation_is_that_of_normal_numbers() -> None:
    groups = np.random.default_rng(0).normal(0.0, SIGMA, (4, 200))
    assert estimate(list(groups)).deviation == pytest.approx(SIGMA, rel=DEVIATION_ERROR)


def test_the_pairs_needed_follow_from_the_error_of_a_median() -> None:
    """A median of n normal numbers has the standard error sqrt(pi / 2) sigma / sqrt(n), and a one-sided 95 % bound lies
    1.645 of these away.
    """
    margin = math.log1p(CLAIM) - math.log(1.005)
    part = _known(1.005, 0.02, deviation=0.05, spread=1e-9, groups=10, units=10)
    needed = pairs_needed(part, _known(1.0, 0.001, deviation=1e-9, spread=1e-9), CLAIM, 5)
    assert needed is not None
    assert 1.645 * math.sqrt(math.pi / 2) * 0.05 / math.sqrt(needed) == pytest.approx(margin, rel=0.01)


def test_the_sentences_give_what_is_proven() -> None:
    """Bounds of 4 % and 6 % below: B is 5 % faster, and at least 4 % of that are sure; likewise for slower."""
    assert sentence("faster", _known(0.95, 0.01), CLAIM, None).startswith("faster by 5.00 %, at least 4.00 %")
    assert sentence("slower", _known(1.05, 0.01), CLAIM, None).startswith("slower by 5.00 %, at least 4.00 %")
    assert "at most 0.70 % slower" in sentence("negligible", _known(1.003, 0.004), CLAIM, None)
    assert "between -1.00 % and +2.00 %; about 40 pairs" in sentence("inconclusive", _known(1.005, 0.015), CLAIM, 40)


def test_the_bounds_of_processes_are_those_of_students_table() -> None:
    """Five processes whose groups are all equal: 2.132 and 2.776 are the quantiles of four degrees of freedom."""
    medians = [0.00, 0.01, 0.02, 0.03, 0.04]
    found = estimate([np.full(40, median) for median in medians])
    spread = math.sqrt(sum((median - 0.02) ** 2 for median in medians) / 4)
    one, two = (quantile * spread / math.sqrt(5) for quantile in (2.132, 2.776))
    logs = [math.log(bound) for bound in (found.ci95[0], found.lower95, found.upper95, found.ci95[1])]
    assert logs == pytest.approx([0.02 - two, 0.02 - one, 0.02 + one, 0.02 + two], abs=1e-5)
    assert (found.spread, found.units, found.groups) == (pytest.approx(spread), 5, 200)
    assert found.ratio == pytest.approx(math.exp(0.02)) and not found.covers_one


@pytest.mark.parametrize("outcome", ["negligible", "slower", "faster", "inconclusive"])
def test_a_bound_on_the_claim_itself(outcome: str) -> None:
    """At most the claim is negligible; only more than it is slower, and only less than minus it is faster."""
    at = {
        "negligible": replace(_known(1.0, 0.002), upper95=1 + CLAIM),
        "slower": replace(_known(1.02, 0.005), lower95=(1 + CLAIM) * (1 + 1e-12)),
        "faster": replace(_known(0.98, 0.005), upper95=(1 - CLAIM) * (1 - 1e-12)),
        "inconclusive": replace(_known(1.0, 0.002), upper95=(1 + CLAIM) * (1 + 1e-12)),
    }
    assert judge(at[outcome], FINE, CLAIM, 5) == outcome


@pytest.mark.parametrize(("upper", "outcome"), [(1 + CLAIM / 2, "negligible"), (1.0051, "inconclusive")])
def test_a_bound_of_the_control_at_half_the_claim(upper: float, outcome: str) -> None:
    assert judge(_known(1.0, 0.002), replace(FINE, upper95=upper), CLAIM, 5) == outcome
