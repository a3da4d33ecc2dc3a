"""Running a benchmark at several batch sizes and resolutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cbsurgeon.checks.latency.benchmark import Side, bench
from cbsurgeon.checks.latency.result import Benchmark
from cbsurgeon.options import BenchOptions, BenchPoints
from cbsurgeon.vocabulary import Progress

SEVERITY = ("faster", "negligible", "inconclusive", "slower")

Sides = Callable[[int | None], tuple[Side, Side]]
"""Opens A and B for square images of a size; ``None`` keeps their own size."""


@dataclass(frozen=True)
class Sweep:
    """Benchmarks at several batch sizes and resolutions.

    Attributes:
        points: the benchmarks; ``environment`` has the ``batch``, and the ``size`` if one was requested.
    """

    points: tuple[Benchmark, ...]

    def __bool__(self) -> bool:
        """True if the claim is proven at every point."""
        return all(self.points)

    @property
    def worst(self) -> Benchmark:
        """The benchmark with the worst verdict and, among those, the largest upper bound."""
        return max(self.points, key=lambda point: (SEVERITY.index(point.verdict), point.upper95))

    def to_dict(self) -> dict[str, Any]:
        """JSON form: the document of the worst point; if there are several, all of them under ``sweep``."""
        document = self.worst.to_dict()
        if len(self.points) == 1:
            return document
        return {**document, "sweep": [point.to_dict() for point in self.points]}

    def __str__(self) -> str:
        return "\n".join(f"{place(point)}: {point}" for point in self.points)


def place(point: Benchmark) -> str:
    """Describe a point, such as ``batch 8, 224 x 224``."""
    size = point.environment.get("size")
    return f"batch {point.environment['batch']}" + (f", {size} x {size}" if size else "")


def sweep(
    sides: Sides,
    points: BenchPoints | None = None,
    how: BenchOptions | None = None,
    /,
    *,
    progress: Progress | None = None,
) -> Sweep:
    """Run a benchmark for every size and batch, each with an equal part of the budget.

    Args:
        sides: opens A and B for a size.
        points: the batches and sizes.
        how: how each point is measured; the budget is for all points together.
        progress: called with a message at each step.

    Raises:
        CBSurgeonError: as :func:`cbsurgeon.checks.bench`.
        KeyboardInterrupt: interrupted before there was a result; later, the points so far are returned, marked partial.
    """
    found: list[Benchmark] = []
    points, how = points or BenchPoints(), how or BenchOptions()
    batches, sizes = points.batches, tuple(points.sizes) or (None,)
    share = how.budget / (len(batches) * len(sizes))
    several = len(batches) * len(sizes) > 1
    for size in sizes:
        a, b = sides(size)
        for batch in batches:
            label = f"batch {batch}" + (f", {size} x {size}" if size else "")
            tell = _prefixed(progress, label) if progress is not None and several else progress
            try:
                point = bench(a, b, replace(how, batch=batch, budget=share), progress=tell)
            except KeyboardInterrupt:
                if not found:
                    raise
                return Sweep((*found[:-1], replace(found[-1], partial=True)))
            stamp = {**point.environment, **({"size": size} if size else {})}
            found.append(replace(point, environment=stamp))
            if point.partial:
                return Sweep(tuple(found))
    return Sweep(tuple(found))


def _prefixed(progress: Progress, label: str) -> Progress:
    return lambda message: progress(f"{label}: {message}")
