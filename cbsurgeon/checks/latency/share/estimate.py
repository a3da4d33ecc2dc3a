"""Computing the inserted operators' share and overhead, with confidence intervals, from the traces of two models.

The time of an operator is the mean of the fastest quarter of its runs. Other work on the machine only adds time. It
adds more to operators that use several threads than to the small inserted ones, so the mean over all runs would
underestimate the share.

Let ``r`` be the fraction of A's time in operators that B does not have, and ``s`` the fraction of B's time in operators
that A does not have. The shared operators take ``(1 - r)`` of A and ``(1 - s)`` of B. They are assumed to be equally
fast, so ``B / A = (1 - r) / (1 - s)``. If the shared operators take less than half of either model's time, the sums
over all operators are compared instead.

The intervals are computed by a bootstrap over blocks of consecutive runs. The two models ran in turns, and the same
blocks are drawn for both, so that a disturbance affects both. The standard error is multiplied by Student's quantile
for the number of blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from cbsurgeon.checks.latency.share.difference import Positions, differ, only_inserted
from cbsurgeon.checks.latency.share.result import GraphDifference, Interval, Operators, OwnTime, Share, SiteTime
from cbsurgeon.checks.latency.share.trace import Node, Times, Trace
from cbsurgeon.checks.latency.statistics import student_quantile

YARDSTICK = 0.5
"""Smallest fraction of both models' time that shared operators must take to serve as the common measure."""

FASTEST = 0.25
"""Fraction of an operator's runs, the fastest ones, whose mean is its time."""

BLOCKS = 15
"""Number of blocks of runs for the bootstrap, at most one per run."""

RESAMPLES = 300
"""Number of bootstrap draws: the standard error is then accurate to 4 %."""

FEWEST_RUNS = 6
"""Fewest runs of each model for a useful interval."""


def undisturbed(times: Times) -> Times:
    """Return the microseconds of each operator, from ``[runs, nodes]``: the mean of its fastest quarter."""
    count = max(1, math.ceil(FASTEST * len(times)))
    return np.asarray(np.partition(times, count - 1, axis=0)[:count].mean(axis=0))


def estimate(a: Trace, b: Trace, *, method: str = "", seconds: float = 0.0, notes: Iterable[str] = ()) -> OwnTime:
    """Compute the own time of the operators that only B executes.

    Args:
        a, b: traces of both models, run in turns.
        method, seconds, notes: see :class:`OwnTime`.

    Raises:
        ValueError: fewer than :data:`FEWEST_RUNS` runs of a model.
    """
    if min(a.runs, b.runs) < FEWEST_RUNS:
        raise ValueError(f"{a.runs} and {b.runs} runs, but at least {FEWEST_RUNS} of each model are needed")
    positions = differ(a.nodes, b.nodes)
    # A changed operator counts as removed from A and added to B.
    of_a = [*positions.removed, *(before for before, _ in positions.changed)]
    of_b = [*positions.added, *(after for _, after in positions.changed)]

    def share(first: Times, second: Times) -> float:
        return _part(second, positions.added)

    typical_a, typical_b = undisturbed(a.times), undisturbed(b.times)
    akin = max(_part(typical_a, of_a), _part(typical_b, of_b)) <= 1 - YARDSTICK

    def overhead(first: Times, second: Times) -> float:
        if not akin:
            return float(second.sum() / first.sum()) - 1
        return (1 - _part(first, of_a)) / (1 - _part(second, of_b)) - 1

    def unchanged(first: Times, second: Times) -> float:
        rest = float(second.sum() - second[of_b].sum()), float(first.sum() - first[of_a].sum())
        return rest[0] / rest[1] - 1 if rest[1] > 0 else 0.0

    found = _intervals(a.times, b.times, (share, overhead, unchanged))
    return OwnTime(
        share=Share(found[0].value, found[0].ci95, min(a.runs, b.runs)),
        overhead=found[1],
        unchanged=found[2],
        graph=_graph(a, b, positions, typical_a, typical_b),
        sites=_sites(b, typical_b),
        run_microseconds=(float(typical_a.sum()), float(typical_b.sum())),
        profiled_seconds=(float(np.median(a.spans)) / 1e6, float(np.median(b.spans)) / 1e6),
        seconds=seconds,
        method=method,
        notes=tuple(notes),
    )


def _part(times: Times, nodes: Iterable[int]) -> float:
    total = float(times.sum())
    return float(times[list(nodes)].sum()) / total if total > 0 else 0.0


def _intervals(a: Times, b: Times, statistics: Iterable[Callable[[Times, Times], float]]) -> list[Interval]:
    """Return each statistic of the operators' undisturbed times, with its bounds."""
    wanted = tuple(statistics)
    runs = min(len(a), len(b))
    blocks = min(BLOCKS, runs)
    length = runs // blocks
    # If the runs do not divide evenly into blocks, the first ones (which are the coldest) are left out.
    indices = np.arange(runs - blocks * length, runs).reshape(blocks, length)
    draws = np.random.default_rng(0).integers(blocks, size=(RESAMPLES, blocks))
    values = np.array([[one(*_both(a, b, indices[draw].ravel())) for one in wanted] for draw in draws])
    spread = values.std(axis=0, ddof=1) * math.sqrt(blocks / (blocks - 1))
    centre = [one(undisturbed(a), undisturbed(b)) for one in wanted]
    two, single = student_quantile(0.975, blocks - 1), student_quantile(0.95, blocks - 1)
    return [
        Interval(value, (value - two * width, value + two * width), value - single * width, value + single * width)
        for value, width in zip(centre, spread.tolist(), strict=True)
    ]


def _both(a: Times, b: Times, runs: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[Times, Times]:
    return undisturbed(a[runs]), undisturbed(b[runs])


def _graph(a: Trace, b: Trace, positions: Positions, of_a: Times, of_b: Times) -> GraphDifference:
    pairs: dict[tuple[Node, Node], list[tuple[int, int]]] = {}
    for before, after in positions.changed:
        pairs.setdefault((a.nodes[before], b.nodes[after]), []).append((before, after))
    return GraphDifference(
        added=_grouped(b.nodes, of_b, positions.added),
        removed=_grouped(a.nodes, of_a, positions.removed),
        changed=tuple(
            (
                _grouped(a.nodes, of_a, (before for before, _ in same))[0],
                _grouped(b.nodes, of_b, (after for _, after in same))[0],
            )
            for same in pairs.values()
        ),
        only_inserted=only_inserted(a.nodes, b.nodes, positions),
    )


def _grouped(nodes: tuple[Node, ...], times: Times, indices: Iterable[int]) -> tuple[Operators, ...]:
    groups: dict[Node, list[int]] = {}
    for index in indices:
        groups.setdefault(nodes[index], []).append(index)
    return tuple(
        Operators(node.op, node.inputs, node.outputs, len(group), float(times[group].sum()))
        for node, group in groups.items()
    )


def _sites(trace: Trace, times: Times) -> tuple[SiteTime, ...]:
    found: dict[str, float] = {}
    for node, time in zip(trace.nodes, times.tolist(), strict=True):
        if node.site:
            found[node.site] = found.get(node.site, 0.0) + time
    return tuple(SiteTime(site, time) for site, time in found.items())
