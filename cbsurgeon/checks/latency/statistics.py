"""Estimating the ratio of run times, with bounds and a verdict, from interleaved timings.

One value is one group of six samples in mirrored order (``A B C C B A``, where C is a second copy of A):
``½ (ln B1 + ln B2 − ln A1 − ln A2)``. A drift that is linear over the group cancels. Values of one process are not
independent (they share memory layout and kernel choice), but processes are. Two bounds are computed, and the wider one
is used:

* the exact bound of the median by order statistics over all groups (no assumption on the distribution), and
* Student's bound of the mean of the processes' medians (with one process: of the medians of its consecutive blocks).

A bootstrap over processes is not used: with few processes it is always narrower than Student's bound (its spread is
smaller by ``sqrt((P-1)/P)``, and its quantile is the normal one).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Verdict = Literal["negligible", "slower", "faster", "inconclusive"]

ONE_PROCESS_FLOOR = 0.02
"""Smallest claim that a single process can prove. Memory layout and kernel choice cause differences of this size."""

BLOCKS = 8
"""Number of blocks in a single process; they are long enough that their medians are nearly independent."""

FEWEST = 6
"""Fewest groups for which an order statistic bounds the median at 97.5 %."""

MOST_PAIRS = 100_000
"""Most groups to recommend; if more would be needed, no number is reported."""


@dataclass(frozen=True)
class Estimate:
    """The estimated time of B divided by time of A.

    Attributes:
        ratio: ``exp`` of the median of all groups.
        ci95: two-sided 95 % interval.
        lower95, upper95: one-sided 95 % bounds.
        deviation: robust standard deviation of one group's log-ratio.
        spread: standard deviation of the processes' (or blocks') medians.
        units: number of processes (or blocks).
        groups: number of groups in total.
        autocorrelation: lag-1 autocorrelation within processes.
    """

    ratio: float
    ci95: tuple[float, float]
    lower95: float
    upper95: float
    deviation: float
    spread: float
    units: int
    groups: int
    autocorrelation: float

    @property
    def covers_one(self) -> bool:
        """Whether the interval contains 1 ("no difference")."""
        return self.ci95[0] <= 1.0 <= self.ci95[1]


def log_ratios(a: Values, b: Values) -> Values:
    """Return one value per group from its two samples of A and of B, both of shape ``[..., 2]``."""
    ratios: Values = 0.5 * (np.log(b).sum(-1) - np.log(a).sum(-1))
    return ratios


@cache
def order_rank(n: int, confidence: float) -> int | None:
    """Return the rank (from 1) of the order statistic that bounds the median from above; ``None`` for too few values.

    The smallest k with ``P(Binomial(n, ½) ≤ k − 1) ≥ confidence``: 20 → 15, 60 → 37, 100 → 59 at 95 %.
    """
    total, target = 0, Fraction(confidence) * 2**n  # a power of two that floating-point numbers do not hold
    for k in range(1, n + 1):
        total += math.comb(n, k - 1)
        if total >= target:
            return k
    return None


@cache
def student_quantile(probability: float, freedom: int) -> float:
    """Return a quantile of Student's t for an integer number of degrees of freedom."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _student_cdf(middle, freedom) < probability else (low, middle)
    return 0.5 * (low + high)


def _student_cdf(t: float, freedom: int) -> float:
    """Return Student's distribution function for t ≥ 0 (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    start = 2 if freedom % 2 == 0 else 3
    term = total = 1.0 if freedom % 2 == 0 else cosine
    for step in range(start, freedom - 1, 2):
        term *= cosine * cosine * (step - 1) / step
        total += term
    if freedom % 2 == 0:
        return 0.5 + 0.5 * math.sin(angle) * total
    return 0.5 + (angle + (math.sin(angle) * total if freedom > 1 else 0.0)) / math.pi


def order_bounds(values: Values, confidence: float) -> tuple[Values, Values]:
    """Return exact lower and upper bounds of the median over the last axis, each one-sided at ``confidence``."""
    n = values.shape[-1]
    rank = order_rank(n, confidence)
    if rank is None:
        infinite = np.full(values.shape[:-1], np.inf)
        return -infinite, infinite
    ordered = np.sort(values, axis=-1)
    return ordered[..., n - rank], ordered[..., rank - 1]


def unit_bounds(medians: Values, confidence: float) -> tuple[Values, Values]:
    """Return Student's bounds of the mean of independent units (last axis), each one-sided at ``confidence``."""
    units = medians.shape[-1]
    centre = medians.mean(-1)
    if units < 2:
        infinite = np.full(centre.shape, np.inf)
        return -infinite, infinite
    half = student_quantile(confidence, units - 1) * medians.std(-1, ddof=1) / math.sqrt(units)
    return centre - half, centre + half


def unit_medians(groups: Values) -> Values:
    """Return the medians of independent units of ``[..., processes, groups]``: processes, or blocks of a single one."""
    if groups.shape[-2] > 1:
        per_process: Values = np.median(groups, axis=-1)
        return per_process
    values = groups[..., 0, :]
    blocks = min(BLOCKS, values.shape[-1])
    return np.stack([np.median(part, axis=-1) for part in np.array_split(values, blocks, axis=-1)], axis=-1)


def bounds(groups: Values, confidence: float) -> tuple[Values, Values]:
    """Return the wider of both bounds in each direction, for log-ratios ``[..., processes, groups]``."""
    pooled = groups.reshape(*groups.shape[:-2], -1)
    exact, clustered = order_bounds(pooled, confidence), unit_bounds(unit_medians(groups), confidence)
    return np.minimum(exact[0], clustered[0]), np.maximum(exact[1], clustered[1])


def estimate(processes: Sequence[Values]) -> Estimate:
    """Estimate the ratio and its bounds from each process's groups; all are cut to the shortest process.

    Raises:
        ValueError: fewer than :data:`FEWEST` groups in total.
    """
    length = min((len(values) for values in processes), default=0)
    if length * len(processes) < FEWEST:
        raise ValueError(
            f"{length} groups in each of {len(processes)} processes; at least {FEWEST} in total are needed"
        )
    groups = np.stack([np.asarray(values[:length], dtype=np.float64) for values in processes])
    pooled = groups.ravel()
    median = float(np.median(pooled))
    two_sided, one_sided = bounds(groups, 0.975), bounds(groups, 0.95)
    medians = unit_medians(groups)
    return Estimate(
        ratio=math.exp(median),
        ci95=(math.exp(two_sided[0]), math.exp(two_sided[1])),
        lower95=math.exp(one_sided[0]),
        upper95=math.exp(one_sided[1]),
        deviation=1.4826 * float(np.median(np.abs(pooled - median))),
        spread=float(medians.std(ddof=1)),  # of at least two processes, or of six blocks
        units=int(medians.size),
        groups=int(pooled.size),
        autocorrelation=autocorrelation(groups),
    )


def autocorrelation(groups: Values) -> float:
    """Return the lag-1 autocorrelation within processes, of values clipped to three robust deviations."""
    centred = groups - np.median(groups, axis=-1, keepdims=True)
    limit = 3 * 1.4826 * np.median(np.abs(centred))
    clipped = np.clip(centred, -limit, limit) if limit > 0 else centred
    power = float((clipped**2).sum())
    return float((clipped[..., 1:] * clipped[..., :-1]).sum()) / power if power else 0.0


def judge(measured: Estimate, control: Estimate, claim: float, processes: int) -> Verdict:
    """Return the verdict of end-to-end pairs alone on the claim "B takes at most ``claim`` longer than A".

    - ``slower``: the lower bound exceeds the claim by more than A deviates from itself (``control``).
    - ``faster``: the upper bound is below minus the claim by more than A deviates from itself.
    - ``negligible``: the upper bound is within the claim, the interval of A against itself contains 1, and its upper
      bound is at most half the claim.

    ``faster`` and ``negligible`` with a claim below :data:`ONE_PROCESS_FLOOR` need more than one process.
    """
    bias = math.exp(bias_of(control))
    if measured.lower95 > (1 + claim) * bias:
        return "slower"
    enough = processes > 1 or claim >= ONE_PROCESS_FLOOR
    if measured.upper95 < (1 - claim) / bias and enough:
        return "faster"
    fine = control.covers_one and control.upper95 <= 1 + claim / 2
    return "negligible" if measured.upper95 <= 1 + claim and fine and enough else "inconclusive"


def bias_of(control: Estimate) -> float:
    """Return the difference of A from itself, as the logarithm of a ratio; zero if its interval contains 1."""
    return 0.0 if control.covers_one else abs(math.log(control.ratio))


def pairs_needed(measured: Estimate, control: Estimate, claim: float, processes: int) -> int | None:
    """Return the number of groups that would settle the claim at the same estimates; ``None`` if none would."""
    margins = [
        (measured, abs(math.log1p(claim) - math.log(measured.ratio))),
        (control, math.log1p(claim / 2)),  # A equals A, so its difference is noise
    ]
    if measured.ratio > 1 + claim:
        margins.pop()  # only "negligible" needs the precise control
    needed = max(_groups_for(part, margin, processes) for part, margin in margins)
    return max(math.ceil(needed), measured.groups + 1) if needed <= MOST_PAIRS else None


def _groups_for(part: Estimate, margin: float, processes: int) -> float:
    """Return the groups needed for a half-width of ``margin``, by the bound of the median and by that of the units."""
    if margin <= 0 or not math.isfinite(part.spread):
        return math.inf
    median = (1.645 * 1.2533 * part.deviation / margin) ** 2
    units = max(5.0, (student_quantile(0.95, 9) * part.spread / margin) ** 2)
    per_unit = part.groups / part.units
    return max(median, units * per_unit, 2 * per_unit if processes < 2 else 0.0)
