"""The result table of a sweep."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cbsurgeon.checks.latency.statistics import student_quantile
from cbsurgeon.errors import CheckFailed
from cbsurgeon.sweeps.grid import BASELINE
from cbsurgeon.sweeps.measuring import Row
from cbsurgeon.sweeps.runs import Result

SCHEMA = "cbsurgeon.sweep/1"

DOUBT = 0.05
"""Probability that the sentence about a sweep is wrong, and that one interval of its table does not contain the true
value."""


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
        own, pairs = self.values(name), self._differences(name)
        if not own:
            return None
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

    @property
    def finding(self) -> str:
        """Return a sentence about the difference of the best cell from the baseline; empty without runs.

        The best of many cells is often best by chance. The interval in the sentence is therefore corrected for every
        cell that was compared (Bonferroni), so that the sentence is wrong with a probability of at most 5 %.
        """
        best = self.best
        if best is None:
            return ""
        if best == BASELINE:
            return f"no cell has a better mean {self.metric} than the baseline"
        cells = [row.name for row in self.rows if row.name != BASELINE and len(self._differences(row.name)) > 0]
        pairs = self._differences(best)
        ends = _interval(pairs, DOUBT / max(1, len(cells)))
        if ends is None:
            return f"{best} is best with one seed, but the difference may be chance; run several seeds"
        size = f"{statistics.fmean(pairs):+.4g} ({100 * (1 - DOUBT):g} % interval {ends[0]:+.4g} to {ends[1]:+.4g}"
        size += f", corrected for {len(cells)} cells)" if len(cells) > 1 else ")"
        better = ends[1] < 0 if self.minimize else ends[0] > 0
        if better:
            return f"{best} is better than the baseline: {self.metric} {size}"
        return f"{best} is best by its mean, but not distinguishable from the baseline: {self.metric} {size}"

    def _differences(self, name: str) -> list[float]:
        """Return the differences of a cell's metric to the baseline's, one per seed that both have."""
        own, plain = self.values(name), self.values(BASELINE)
        return [own[seed] - plain[seed] for seed in own if seed in plain]

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
            "finding": self.finding or None,
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


def _interval(values: Sequence[float], doubt: float = DOUBT) -> list[float] | None:
    """Return the ``1 - doubt`` Student interval of a mean; ``None`` for fewer than two values."""
    if len(values) < 2:
        return None
    quantile = student_quantile(1 - doubt / 2, len(values) - 1)
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    middle = statistics.fmean(values)
    return [middle - half, middle + half]
