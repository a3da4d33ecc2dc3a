"""Confidence intervals and tests for paired results of two models on the same images."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""
RESAMPLES, RESAMPLED_VALUES = 2000, 500
"""Number of bootstrap resamples for a mean, and for a statistic that is recomputed for each. The ends of the interval
then have a standard error of about 1 % and 3 % of its width.
"""
SEED = 0
_CHUNK = 1 << 22
"""Number of random indices drawn at once (32 MB)."""

Interval = tuple[float, float]


def bootstrap(statistic: Callable[[Tensor], float] | None, rows: Tensor) -> Interval:
    """Return the 95 % percentile interval of a statistic over resampled images; the seed is fixed.

    Args:
        statistic: function of rows ``[images, numbers]``; ``None`` for the mean of the first number.
        rows: float64 ``[images, numbers]``; for a paired difference, the numbers of both models concatenated.
    """
    count, resamples = len(rows), RESAMPLES if statistic is None else RESAMPLED_VALUES
    generator = torch.Generator().manual_seed(SEED)
    if count < 2 or not rows.isfinite().all():
        return math.nan, math.nan
    values: list[float] = []
    step = max(1, _CHUNK // count) if statistic is None else 1
    while len(values) < resamples:
        drawn = torch.randint(count, (min(step, resamples - len(values)), count), generator=generator)
        if statistic is None:
            values += rows[:, 0][drawn].mean(1).tolist()
        else:
            values.append(statistic(rows[drawn[0]]))
    ends = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(ends[0]), float(ends[1])


def paired_proportions(gained: int, lost: int, count: int) -> Interval:
    """Return the 95 % score interval of the difference of two paired proportions, ``(gained - lost) / count``.

    The interval does not become zero if no image changed; it then extends to ``±3.84 / (count + 3.84)``. Tango,
    Equivalence test and confidence interval for the difference in proportions for the paired-sample design, Statistics
    in Medicine 17, 1998.

    Args:
        gained: number of images that only the second model classifies correctly.
        lost: number of images that only the first model classifies correctly.
        count: number of all images.
    """
    estimate = (gained - lost) / count
    upper = _root(lambda value: _score(gained, lost, count, value) + Z95, estimate, 1.0)
    lower = _root(lambda value: _score(gained, lost, count, value) - Z95, -1.0, estimate)
    return lower, upper


def _score(gained: int, lost: int, count: int, difference: float) -> float:
    """Return the distance of the estimate from a hypothetical true difference, in standard errors."""
    first = 2.0 * count
    second = -gained - lost + (2.0 * count - gained + lost) * difference
    third = -lost * difference * (1.0 - difference)
    rest = (math.sqrt(max(0.0, second * second - 4.0 * first * third)) - second) / (2.0 * first)
    variance = count * (2.0 * rest + difference * (1.0 - difference))
    distance = gained - lost - count * difference
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance) if distance else 0.0


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the root of a decreasing function, by bisection."""
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return (low + high) / 2


def mcnemar(gained: int, lost: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (null hypothesis: both changes are equally likely)."""
    changed = gained + lost
    if changed == 0:
        return 1.0
    logs = [
        math.lgamma(changed + 1) - math.lgamma(k + 1) - math.lgamma(changed - k + 1) - changed * math.log(2)
        for k in range(min(gained, lost) + 1)
    ]
    return min(1.0, 2.0 * math.fsum(math.exp(log) for log in logs))


def proportion(hits: float, count: int) -> Interval:
    """Return Wilson's 95 % confidence interval of one proportion."""
    share, square = hits / count, Z95 * Z95
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = Z95 / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)
