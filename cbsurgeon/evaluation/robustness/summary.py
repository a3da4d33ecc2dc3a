"""Summarising the records of corrupted images: the metrics for each corruption."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cbsurgeon.checks.latency.statistics import student_quantile
from cbsurgeon.evaluation.comparison import difference, value
from cbsurgeon.evaluation.metrics import Metric
from cbsurgeon.evaluation.robustness.stress import Stress
from cbsurgeon.evaluation.statistics import bootstrap


def summarize(
    wanted: Sequence[Stress], metrics: Sequence[Metric], sides: Sequence[str], columns: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """Return one row per corruption and strength, in JSON form.

    ``metrics`` are means over seeds, ``over_seeds`` their 95 % confidence intervals (Student's t over seeds), and
    ``difference`` is paired over images.
    """
    rows = []
    for stress in wanted:
        records = {
            side: {
                metric.name: [columns[f"{stress.key}/{seed}/{side}/{metric.name}"] for seed in range(stress.seeds)]
                for metric in metrics
            }
            for side in sides
        }
        row: dict[str, Any] = {
            "name": stress.name,
            "strength": stress.strength,
            "words": stress.words,
            "seeds": stress.seeds,
            "metrics": {
                side: {metric.name: _mean(metric, found[metric.name]) for metric in metrics}
                for side, found in records.items()
            },
        }
        if stress.seeds > 1:
            row["over_seeds"] = {
                side: {metric.name: _over_seeds(metric, found[metric.name]) for metric in metrics}
                for side, found in records.items()
            }
        if len(sides) == 2:
            row["difference"] = {
                metric.name: _difference(metric, records["a"][metric.name], records["b"][metric.name])
                for metric in metrics
            }
        rows.append(row)
    return rows


def _mean(metric: Metric, seeds: Sequence[Tensor]) -> float | None:
    values = [value(metric, records) for records in seeds]
    finite = [one for one in values if one is not None]
    return math.fsum(finite) / len(finite) if len(finite) == len(values) else None


def _over_seeds(metric: Metric, seeds: Sequence[Tensor]) -> list[float] | None:
    values = [value(metric, records) for records in seeds]
    finite = torch.tensor([one for one in values if one is not None], dtype=torch.float64)
    if len(finite) < len(values):
        return None
    half = student_quantile(0.975, len(values) - 1) * float(finite.std()) / math.sqrt(len(values))
    return [float(finite.mean()) - half, float(finite.mean()) + half]


def _difference(metric: Metric, a: Sequence[Tensor], b: Sequence[Tensor]) -> dict[str, Any]:
    """Return the paired difference; with several seeds, an image is resampled with all its seeds."""
    if len(a) == 1:
        return difference(metric, a[0], b[0]).to_dict()
    first, second = _mean(metric, a), _mean(metric, b)
    if first is None or second is None:
        return {"value": None, "ci95": None}
    if metric.mean:
        ends = bootstrap(None, torch.stack(list(b)).mean(0) - torch.stack(list(a)).mean(0))
    else:
        width, both = a[0].shape[1], [torch.cat(pair, 1) for pair in zip(a, b, strict=True)]

        def apart(rows: Tensor) -> float:
            parts = torch.split(rows, 2 * width, 1)
            return sum(metric.value(part[:, width:]) - metric.value(part[:, :width]) for part in parts) / len(parts)

        ends = bootstrap(apart, torch.cat(both, 1))
    return {"value": second - first, "ci95": list(ends) if all(map(math.isfinite, ends)) else None}
