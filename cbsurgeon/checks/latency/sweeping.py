"""The same comparison at several batch sizes and resolutions."""

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
"""Opens A and B for square images of a size; for ``None`` as they are."""


@dataclass(frozen=True)
class Sweep:
    """B against A, point by point.

    Attributes:
        points: one benchmark each; ``environment`` says the ``batch``, and the ``size`` where one was asked for.
    """

    points: tuple[Benchmark, ...]

    def __bool__(self) -> bool:
        """True when the claim is proven at every point."""
        return all(self.points)

    @property
    def worst(self) -> Benchmark:
        """The point that speaks most against the claim: what holds there holds everywhere."""
        return max(self.points, key=lambda point: (SEVERITY.index(point.verdict), point.upper95))

    def to_dict(self) -> dict[str, Any]:
        """JSON form: the document of one point, of the worst of several; with several, all of them as ``sweep``."""
        document = self.worst.to_dict()
        if len(self.points) == 1:
            return document
        return {**document, "sweep": [point.to_dict() for point in self.points]}

    def __str__(self) -> str:
        return "\n".join(f"{place(point)}: {point}" for point in self.points)


def place(point: Benchmark) -> str:
    """``batch 8, 224 x 224``."""
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
    """Measure every size at every batch, each with an equal part of the time.

    Args:
        sides: opens A and B for a size.
        points: the batches and sizes.
        how: how each point is measured; its budget is for all points together.
        progress: told each step.

    Raises:
        CBSurgeonError: as :func:`cbsurgeon.checks.bench`.
        KeyboardInterrupt: before the first point had a result; later, the points so far are returned, marked partial.
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
