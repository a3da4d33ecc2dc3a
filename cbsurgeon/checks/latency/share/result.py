"""The result of measuring own time: the inserted operators' time, and the difference of the executed graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Interval:
    """An estimated fraction with its confidence interval.

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
    """The inserted operators' fraction of B's run time.

    Attributes:
        value: their time divided by the time of all operators.
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
    """A group of equal operators: of one type, on tensors of the same shapes.

    Attributes:
        op: type, or name of the fused kernel.
        inputs, outputs: dtypes and shapes, as text; empty if the profiler does not report them.
        count: number of operators.
        microseconds: their total time in one run.
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
    """The difference of the two executed graphs, after the back end's optimiser.

    Attributes:
        added: operators that only B has.
        removed: operators that only A has, such as a fusion that no longer happens.
        changed: operators of the same type in A and B whose tensors differ. They are not in ``added`` or ``removed``,
            but their time counts.
        only_inserted: whether B executes all operators of A and, in addition, only inserted ones. If the profiler does
            not report sites, all added operators count as inserted.
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
    """The time of the operator at one site in one run.

    Attributes:
        site: module path of the operator, or of its block.
        microseconds: its time.
    """

    site: str
    microseconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"site": self.site, "microseconds": self.microseconds}


@dataclass(frozen=True)
class OwnTime:
    """The time of the operators that only B executes, measured by the back end's profiler.

    Attributes:
        share: the inserted operators' fraction of B's run time.
        overhead: time of B divided by time of A, minus one, computed from the operators they do not share (including
            fusions lost and gained). Shared operators are assumed to be equally fast; the end-to-end pairs check that.
        unchanged: time of the shared operators in B divided by that in A, minus one.
        graph: the operators that are not shared.
        sites: time of each inserted operator, if the profiler reports which nodes belong to it.
        run_microseconds: undisturbed operator time of a whole run of A and of B.
        profiled_seconds: median seconds of a profiled run of A and of B.
        seconds: duration of the measurement, without opening and compiling the models.
        method: name of the profiler.
        notes: facts that limit or explain the numbers.
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
        """JSON form of everything except ``share`` and ``graph``."""
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
