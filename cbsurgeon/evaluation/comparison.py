"""Comparing two models on the same images: differences of metrics with intervals, and the verdict on a claim."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cbsurgeon.evaluation.metrics import Metric
from cbsurgeon.evaluation.statistics import Interval, bootstrap, mcnemar, paired_proportions, proportion

MOST_IMAGES = 1 << 40
"""Upper limit of the search for the number of images that would settle a claim."""


@dataclass(frozen=True)
class Difference:
    """The difference of one metric between two models, paired over images.

    Attributes:
        value: B minus A; ``None`` if one of them is not finite.
        ci95: its 95 % confidence interval.
        better: ``higher`` or ``lower``: which values are better.
        method: ``score`` (two proportions, Tango 1998), ``bootstrap`` (resampled images) or ``none``.
        gained, lost: number of images that only B, and only A, classifies correctly; ``None`` for other metrics.
        p_value: p-value of McNemar's exact test; ``None`` for other metrics.
    """

    value: float | None
    ci95: Interval | None
    better: str
    method: str
    gained: int | None = None
    lost: int | None = None
    p_value: float | None = None

    @property
    def loss(self) -> Interval | None:
        """The interval of the loss of B compared with A; positive numbers mean that B is worse."""
        if self.ci95 is None:
            return None
        low, high = self.ci95
        return (-high, -low) if self.better == "higher" else (low, high)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        document: dict[str, Any] = {
            "value": self.value,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "better": self.better,
            "method": self.method,
        }
        if self.p_value is not None:
            document |= {"gained": self.gained, "lost": self.lost, "mcnemar_p": self.p_value}
        return document


@dataclass(frozen=True)
class Claim:
    """A claim that B is worse than A by at most a limit, and its verdict.

    Attributes:
        metric: the metric of the claim.
        limit: the largest loss claimed, as a fraction (0.001 for ``--claim 0.1%``).
        verdict: ``true``, ``false`` or ``inconclusive``.
        needed: estimated number of images that would settle the claim if the same fraction of images changes; ``None``
            if it is settled, or if no number would settle it.
    """

    metric: str
    limit: float
    verdict: str
    needed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"metric": self.metric, "limit": self.limit, "verdict": self.verdict, "needed": self.needed}


def value(metric: Metric, records: Tensor) -> float | None:
    """Return a metric's value; ``None`` if it is not finite."""
    found = metric.value(records)
    return found if math.isfinite(found) else None


def interval(metric: Metric, records: Tensor) -> Interval | None:
    """Return the 95 % confidence interval of one model's metric over images."""
    if metric.binary:
        return proportion(float(records[:, 0].sum()), len(records))
    return _finite(bootstrap(None if metric.mean else metric.value, records))


def difference(metric: Metric, a: Tensor, b: Tensor) -> Difference:
    """Return the paired difference of one metric.

    Args:
        metric: the metric.
        a, b: its records for the same images, ``[images, numbers]``.
    """
    first, second = value(metric, a), value(metric, b)
    better = "higher" if metric.higher else "lower"
    if first is None or second is None:
        return Difference(None, None, better, "none")
    if metric.binary:
        gained, lost = (int(((one > 0) & (other == 0)).sum()) for one, other in ((b, a), (a, b)))
        ends = paired_proportions(gained, lost, len(a))
        return Difference(second - first, ends, better, "score", gained, lost, mcnemar(gained, lost))
    if metric.mean:
        ends = bootstrap(None, b - a)
    else:
        width = a.shape[1]
        ends = bootstrap(
            lambda rows: metric.value(rows[:, width:]) - metric.value(rows[:, :width]), torch.cat([a, b], 1)
        )
    return Difference(second - first, _finite(ends), better, "bootstrap")


def judge(metric: Metric, found: Difference, limit: float, count: int) -> Claim:
    """Return the verdict on a claim and, if it is inconclusive, how many images would settle it."""
    loss = found.loss
    if loss is None:
        return Claim(metric.name, limit, "false" if found.value is None else "inconclusive")
    if loss[1] <= limit:
        return Claim(metric.name, limit, "true")
    if loss[0] > limit:
        return Claim(metric.name, limit, "false")
    return Claim(metric.name, limit, "inconclusive", _needed(found, loss, limit, count))


def _needed(found: Difference, loss: Interval, limit: float, count: int) -> int | None:
    """Return the number of images for which the interval would exclude the limit at the same fractions."""
    if found.value is None:
        return None
    estimate = -found.value if found.better == "higher" else found.value
    if found.gained is not None and found.lost is not None:
        many = count
        while many < MOST_IMAGES:
            many = math.ceil(many * 1.05)
            scale = many / count
            low, high = paired_proportions(round(found.gained * scale), round(found.lost * scale), many)
            if -low <= limit or -high > limit:
                return many
        return None
    margin = abs(limit - estimate)
    half = loss[1] - estimate if estimate <= limit else estimate - loss[0]
    return math.ceil(count * (half / margin) ** 2) if margin > 0 else None


def _finite(ends: Interval) -> Interval | None:
    return ends if all(math.isfinite(end) for end in ends) else None


def per_class(metric: Metric, records: Mapping[str, Tensor], labels: Tensor) -> dict[int, dict[str, float | None]]:
    """Return a metric per class: class → ``a`` or ``b`` → value."""
    found: dict[int, dict[str, float | None]] = {}
    for label in sorted(set(labels.tolist())):
        mine = labels == label
        found[int(label)] = {side: value(metric, rows[mine]) for side, rows in records.items()}
    return found
