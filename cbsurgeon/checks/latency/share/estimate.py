"""From two traces to the share of the inserted operators and the overhead. Pure arithmetic, no clock.

An operator's time is the mean of its fastest quarter over the runs: other work on the machine only adds time, and it
adds more to operators that wait for several threads than to the small inserted ones, so that means over all runs would
flatter the share. With ``r`` the part of A's time in operators that B has not and ``s`` the part of B's time in
operators that A has not, the shared operators take ``(1 - r)`` of A and ``(1 - s)`` of B. Taken as equally fast, they
give ``B / A = (1 - r) / (1 - s)``. Two models that share less than half of their time have no such yardstick: there,
the sums over all operators are compared.

The intervals come from a bootstrap over blocks of consecutive runs: the same blocks of both models, which were run in
turns, so that what disturbed both is drawn together. Its standard error is widened by Student's quantile for the number
of blocks.
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
"""Part of both models' time that the shared operators have to take to measure the rest by."""

FASTEST = 0.25
"""Part of an operator's runs that counts, from the fastest."""

BLOCKS = 15
"""Blocks the runs are cut into, or as many as there are runs."""

RESAMPLES = 300
"""Draws of blocks: the standard error is then known to 4 %."""

FEWEST_RUNS = 6
"""With fewer runs of a model there is no interval worth the name."""


def undisturbed(times: Times) -> Times:
    """Microseconds of each operator, from ``[runs, nodes]``: the mean of its fastest quarter."""
    count = max(1, math.ceil(FASTEST * len(times)))
    return np.asarray(np.partition(times, count - 1, axis=0)[:count].mean(axis=0))


def estimate(a: Trace, b: Trace, *, method: str = "", seconds: float = 0.0, notes: Iterable[str] = ()) -> OwnTime:
    """The own time of what B executes beyond A.

    Args:
        a, b: runs of both models, taken in turns.
        method, seconds, notes: as in :class:`OwnTime`.

    Raises:
        ValueError: fewer than :data:`FEWEST_RUNS` runs of a model.
    """
    if min(a.runs, b.runs) < FEWEST_RUNS:
        raise ValueError(f"{a.runs} and {b.runs} runs; {FEWEST_RUNS} of each model are the fewest")
    positions = differ(a.nodes, b.nodes)
    # An operator that both have on other tensors is one that A has no longer and one that B has more.
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


def _part(times: Times, places: Iterable[int]) -> float:
    total = float(times.sum())
    return float(times[list(places)].sum()) / total if total > 0 else 0.0


def _intervals(a: Times, b: Times, statistics: Iterable[Callable[[Times, Times], float]]) -> list[Interval]:
    """Each statistic of the operators' undisturbed times, with its bounds."""
    wanted = tuple(statistics)
    runs = min(len(a), len(b))
    blocks = min(BLOCKS, runs)
    length = runs // blocks
    # The first runs are the coldest: where the runs do not divide evenly, those are left out of the draws.
    places = np.arange(runs - blocks * length, runs).reshape(blocks, length)
    draws = np.random.default_rng(0).integers(blocks, size=(RESAMPLES, blocks))
    values = np.array([[one(*_both(a, b, places[draw].ravel())) for one in wanted] for draw in draws])
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
                _grouped(a.nodes, of_a, (before for before, _ in places))[0],
                _grouped(b.nodes, of_b, (after for _, after in places))[0],
            )
            for places in pairs.values()
        ),
        only_inserted=only_inserted(a.nodes, b.nodes, positions),
    )


def _grouped(nodes: tuple[Node, ...], times: Times, places: Iterable[int]) -> tuple[Operators, ...]:
    groups: dict[Node, list[int]] = {}
    for place in places:
        groups.setdefault(nodes[place], []).append(place)
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
