"""The result table of a sweep."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cbsurgeon.errors import CheckFailed
from cbsurgeon.sweeps.grid import BASELINE
from cbsurgeon.sweeps.measuring import Row
from cbsurgeon.sweeps.runs import Result

SCHEMA = "cbsurgeon.sweep/1"

T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t at 97.5 % for 1 to 30 degrees of freedom; beyond, 1.960 (normal) is at most 4 % too small."""


@dataclass(frozen=True)
class SweepTable:
    """The result of a sweep.

    Attributes:
        reference: the model.
        directory: the folder of the sweep.
        rows: the baseline and every cell, in the order of the grid.
        results: the finished runs of the user's command; empty without a command.
        metric: name of the metric read from the runs; empty without a command.
        minimize: whether a smaller metric is better.
        left: number of runs that were not finished in time.
        environment: machine and versions.
    """

    reference: str
    directory: Path
    rows: tuple[Row, ...]
    results: tuple[Result, ...] = ()
    metric: str = ""
    minimize: bool = False
    left: int = 0
    environment: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """True if no run failed in all its attempts."""
        return all(result.value is not None for result in self.results)

    def values(self, name: str) -> dict[int, float]:
        """Return seed → metric for one cell."""
        return {one.seed: one.value for one in self.results if one.cell == name and one.value is not None}

    def summary(self, name: str) -> dict[str, Any] | None:
        """Return the mean of one cell's metric and its difference to the baseline, paired over seeds.

        Confidence intervals are Student's t over seeds, at 95 %; ``None`` with a single seed.
        """
        own, plain = self.values(name), self.values(BASELINE)
        if not own:
            return None
        pairs = [own[seed] - plain[seed] for seed in own if seed in plain]
        difference = None
        if name != BASELINE and pairs:
            difference = {"value": statistics.fmean(pairs), "ci95": _interval(pairs), "seeds": len(pairs)}
        return {
            "mean": statistics.fmean(own.values()),
            "ci95": _interval(list(own.values())),
            "seeds": len(own),
            "difference": difference,
        }

    @property
    def best(self) -> str | None:
        """The cell (or the baseline) with the best mean metric; ``None`` without runs."""
        means = {row.name: one["mean"] for row in self.rows if (one := self.summary(row.name)) is not None}
        if not means:
            return None
        return (min if self.minimize else max)(means, key=lambda name: means[name])

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``cbsurgeon.sweep/1``."""
        return {
            "schema": SCHEMA,
            "reference": self.reference,
            "directory": str(self.directory),
            "rows": [{**row.to_dict(), "metric": self.summary(row.name)} for row in self.rows],
            "runs": [result.to_dict() for result in self.results],
            "metric": self.metric or None,
            "minimize": self.minimize,
            "best": self.best,
            "left": self.left,
            "environment": dict(self.environment),
        }

    def raise_if_failed(self) -> SweepTable:
        """Return the table itself, or raise an error if a run failed.

        Raises:
            CheckFailed: a run failed in all its attempts (CB-SWEEP-07).
        """
        failed = [result for result in self.results if result.value is None]
        if failed:
            raise CheckFailed(
                f"{len(failed)} of {len(self.results)} runs failed",
                code="CB-SWEEP-07",
                where=f"{failed[0].cell}, seed {failed[0].seed}, {failed[0].attempts} attempts",
                why=failed[0].why,
                do=f"read {self.directory / 'runs' / failed[0].cell / f'seed-{failed[0].seed}' / 'log.txt'}",
            )
        return self


def _interval(values: Sequence[float]) -> list[float] | None:
    """Return the 95 % confidence interval of a mean; ``None`` for one value."""
    if len(values) < 2:
        return None
    quantile = T975[len(values) - 2] if len(values) - 1 <= len(T975) else 1.96
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    middle = statistics.fmean(values)
    return [middle - half, middle + half]
