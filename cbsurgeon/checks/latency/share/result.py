"""The inserted operators' own time, and the difference of the executed graphs it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Interval:
    """A fraction with its bounds.

    Attributes:
        value: the estimate.
        ci95: two-sided 95 % interval.
        lower95, upper95: one-sided 95 % bounds.
    """

    value: float
    ci95: tuple[float, float]
    lower95: float
    upper95: float

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"value": self.value, "ci95": list(self.ci95), "lower95": self.lower95, "upper95": self.upper95}


@dataclass(frozen=True)
class Share:
    """The part of a run of B that its inserted operators take.

    Attributes:
        value: their time over the time of all operators.
        ci95: two-sided 95 % interval of ``value``.
        runs: profiled runs of each model.
    """

    value: float
    ci95: tuple[float, float]
    runs: int

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"value": self.value, "ci95": list(self.ci95), "runs": self.runs}


@dataclass(frozen=True)
class Operators:
    """Equal operators of a graph: of one type, on tensors of the same shapes.

    Attributes:
        op: type, or name of the fused kernel.
        inputs, outputs: types and shapes, as text; empty where the profiler does not tell.
        count: how many there are.
        microseconds: what they take in one run, together.
    """

    op: str
    inputs: str
    outputs: str
    count: int
    microseconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "op": self.op,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "count": self.count,
            "microseconds": self.microseconds,
        }

    def __str__(self) -> str:
        where = self.outputs or self.inputs
        return f"{self.count} {self.op}{f' {where}' if where else ''}, {self.microseconds:.0f} µs"


@dataclass(frozen=True)
class GraphDifference:
    """What the two executed graphs do not share, after the back end's optimiser.

    Attributes:
        added: operators of B that A has not.
        removed: operators of A that B has not, such as a fusion that no longer happens.
        changed: operators of the same type in both whose tensors differ, as they are in A and in B. They are in
            neither of the other two; their time counts.
        only_inserted: B executes all that A does, and inserted operators beside it. Where the profiler does not tell
            what a node belongs to, all added ones count as inserted.
    """

    added: tuple[Operators, ...] = ()
    removed: tuple[Operators, ...] = ()
    changed: tuple[tuple[Operators, Operators], ...] = ()
    only_inserted: bool = True

    def __bool__(self) -> bool:
        """Whether there is any difference."""
        return bool(self.added or self.removed or self.changed)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "added": [part.to_dict() for part in self.added],
            "removed": [part.to_dict() for part in self.removed],
            "changed": [{"a": before.to_dict(), "b": after.to_dict()} for before, after in self.changed],
            "only_inserted": self.only_inserted,
        }


@dataclass(frozen=True)
class SiteTime:
    """What the operator at one site takes in one run.

    Attributes:
        site: module path of the operator, or of the block it stands in.
        microseconds: its time.
    """

    site: str
    microseconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"site": self.site, "microseconds": self.microseconds}


@dataclass(frozen=True)
class OwnTime:
    """What B executes beyond A, timed by the profiler of the back end that runs both.

    Attributes:
        share: of the inserted operators in a run of B.
        overhead: time of B over time of A, less one, from the operators they do not share: lost and gained fusions
            count. The operators they do share are taken as equally fast, which the end-to-end pairs check.
        unchanged: time of the shared operators in B over that in A, less one.
        graph: the operators that are not shared.
        sites: time of each inserted operator, where the profiler tells which node belongs to it.
        run_microseconds: operator time of a whole run of A and of B, undisturbed.
        profiled_seconds: median seconds of a profiled run of A and of B.
        seconds: how long measuring took.
        method: the profiler, in words.
        notes: facts that weaken or explain the numbers.
    """

    share: Share
    overhead: Interval
    unchanged: Interval
    graph: GraphDifference
    sites: tuple[SiteTime, ...]
    run_microseconds: tuple[float, float]
    profiled_seconds: tuple[float, float]
    seconds: float
    method: str
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form of what stands beside ``share`` and ``graph``."""
        return {
            "overhead": self.overhead.to_dict(),
            "unchanged": self.unchanged.to_dict(),
            "sites": [site.to_dict() for site in self.sites],
            "run_microseconds": {"a": self.run_microseconds[0], "b": self.run_microseconds[1]},
            "profiled_seconds": {"a": self.profiled_seconds[0], "b": self.profiled_seconds[1]},
            "seconds": self.seconds,
            "method": self.method,
            "notes": list(self.notes),
        }
