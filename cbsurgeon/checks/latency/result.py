"""The result of a benchmark: the verdict and its confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cbsurgeon.checks.latency.sampling import Process
from cbsurgeon.checks.latency.share.result import GraphDifference, OwnTime, Share
from cbsurgeon.checks.latency.statistics import Verdict

SCHEMA = "cbsurgeon.bench/1"


@dataclass(frozen=True)
class Benchmark:
    """The latency of B compared with A.

    Attributes:
        a, b: names of the two models.
        ratio: time of B divided by time of A (median of the paired ratios); 1.01 is one per cent slower.
        ci95: two-sided 95 % confidence interval of ``ratio``.
        upper95, lower95: one-sided 95 % bounds of ``ratio``.
        verdict: ``negligible`` (B is slower by at most the claim), ``slower`` (by more), ``faster`` (B is faster by
            more than the claim) or ``inconclusive``.
        sentence: the verdict as a sentence, with the numbers that decided it.
        claim: the largest slow-down that counts as negligible, as a fraction.
        pairs: number of ABBA groups over all processes.
        processes: number of processes.
        pairs_needed: groups that would settle an inconclusive run; ``None`` if settled, or if more groups would not.
        control_ratio, control_ci95: the same for A compared with itself; if the interval does not contain 1, the
            machine is too noisy for the claim.
        median_seconds: median seconds per call of A and of B.
        peak_memory: bytes of A and of B, ``None`` where unknown.
        environment: threads, affinity, processor, versions, load, clocks.
        samples: raw times of each process.
        partial: whether the run was interrupted, or ended before the planned number of groups.
        notes: facts that limit or explain the verdict.
        own: the inserted operators' own time, which decides the verdict; ``None`` if it was not measured.
        own_missing: why own time could not be measured; otherwise empty.
        pairs_agree: whether end-to-end times and own time agree; ``None`` without an own time.
    """

    a: str
    b: str
    ratio: float
    ci95: tuple[float, float]
    upper95: float
    lower95: float
    verdict: Verdict
    sentence: str
    claim: float
    pairs: int
    processes: int
    pairs_needed: int | None
    control_ratio: float
    control_ci95: tuple[float, float]
    median_seconds: tuple[float, float]
    peak_memory: tuple[int | None, int | None] = (None, None)
    environment: Mapping[str, Any] = field(default_factory=dict)
    samples: tuple[Process, ...] = field(default=(), repr=False)
    partial: bool = False
    notes: tuple[str, ...] = ()
    own: OwnTime | None = None
    own_missing: str = ""
    pairs_agree: bool | None = None

    def __bool__(self) -> bool:
        """True if the claim is proven."""
        return self.verdict in ("negligible", "faster")

    @property
    def share(self) -> Share | None:
        """The inserted operators' fraction of B's run time; ``None`` if it could not be measured."""
        return self.own.share if self.own else None

    @property
    def graph(self) -> GraphDifference | None:
        """The difference of the executed graphs; ``None`` if it could not be measured."""
        return self.own.graph if self.own else None

    @property
    def profiler_overhead(self) -> float | None:
        """The slow-down of A caused by the profiler, as a fraction."""
        return self.own.profiled_seconds[0] / self.median_seconds[0] - 1 if self.own else None

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``cbsurgeon.bench/1``."""
        return {
            "schema": SCHEMA,
            "a": self.a,
            "b": self.b,
            "ratio": self.ratio,
            "ci95": list(self.ci95),
            "upper95": self.upper95,
            "lower95": self.lower95,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "claim": self.claim,
            "pairs": self.pairs,
            "processes": self.processes,
            "pairs_needed": self.pairs_needed,
            "control": {"ratio": self.control_ratio, "ci95": list(self.control_ci95)},
            "median_seconds": {"a": self.median_seconds[0], "b": self.median_seconds[1]},
            "peak_memory": {"a": self.peak_memory[0], "b": self.peak_memory[1]},
            "share": self.share.to_dict() if self.share else None,
            "graph": None if self.graph is None else self.graph.to_dict(),
            "own_time": {**self.own.to_dict(), "profiler_overhead": self.profiler_overhead} if self.own else None,
            "own_missing": self.own_missing or None,
            "pairs_agree": self.pairs_agree,
            "partial": self.partial,
            "notes": list(self.notes),
            "environment": dict(self.environment),
            "samples": [process.to_dict() for process in self.samples],
        }

    def __str__(self) -> str:
        low, high = (100 * (value - 1) for value in self.ci95)
        control_low, control_high = (100 * (value - 1) for value in self.control_ci95)
        first, second = (1e3 * value for value in self.median_seconds)
        rows = [
            f"{self.a} -> {self.b}: {self.sentence}",
            f"  time     {first:.3f} ms -> {second:.3f} ms   {100 * (self.ratio - 1):+.2f} % "
            f"({low:+.2f} to {high:+.2f})",
            f"  noise    A against itself {100 * (self.control_ratio - 1):+.2f} % "
            f"({control_low:+.2f} to {control_high:+.2f})",
            f"  pairs    {self.pairs} groups in {self.processes} processes{', partial' if self.partial else ''}",
        ]
        return "\n".join([*rows, *(f"  note     {note}" for note in self.notes)])
