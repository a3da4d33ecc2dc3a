"""Which of two models is slower, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA = "cbsurgeon.bench/1"

Outcome = Literal["within", "slower", "inconclusive"]


@dataclass(frozen=True)
class Process:
    """Raw samples of one process, in the order they were taken.

    Attributes:
        a, b, control: seconds per call; ``control`` is A measured a second time as if it were another model. Each row
            is one group: ``a`` has the first and last sample of A in the rotation, ``b`` and ``control`` likewise.
        load: load average (1 minute) before and after.
        peak_memory: bytes of memory at most in use while ``a`` and while ``b`` ran; ``None`` where unknown.
    """

    a: tuple[tuple[float, float], ...]
    b: tuple[tuple[float, float], ...]
    control: tuple[tuple[float, float], ...]
    load: tuple[float, float] = (0.0, 0.0)
    peak_memory: tuple[int | None, int | None] = (None, None)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "a": [list(row) for row in self.a],
            "b": [list(row) for row in self.b],
            "control": [list(row) for row in self.control],
            "load": list(self.load),
            "peak_memory": list(self.peak_memory),
        }


@dataclass(frozen=True)
class Benchmark:
    """B against A.

    Attributes:
        a, b: names of what was measured.
        ratio: time of B over time of A (median of the paired ratios); 1.01 is one per cent slower.
        ci95: two-sided 95 % confidence interval of ``ratio``.
        upper95: one-sided 95 % upper bound of ``ratio``: the number the verdict is about.
        lower95: one-sided 95 % lower bound.
        outcome: ``within`` (the claim is proven), ``slower`` (it is refuted) or ``inconclusive``.
        verdict: the outcome as one sentence.
        claim: the largest slow-down that counts as "no slower", as a fraction.
        pairs: ABBA groups over all processes.
        processes: how many processes they come from.
        pairs_needed: groups that would settle an inconclusive run, ``None`` when settled or when more groups cannot.
        control_ratio, control_ci95: the same for A against itself; an interval without 1 means the machine is not
            fit for the claim.
        median_seconds: median seconds per call of A and of B.
        peak_memory: bytes of A and of B, ``None`` where unknown.
        environment: threads, affinity, processor, versions, load, clocks.
        samples: raw times of each process.
        partial: true when the run was interrupted or its budget ran out before the planned number of groups.
        notes: facts that weaken or explain the verdict.
    """

    a: str
    b: str
    ratio: float
    ci95: tuple[float, float]
    upper95: float
    lower95: float
    outcome: Outcome
    verdict: str
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

    def __bool__(self) -> bool:
        """True when the claim is proven."""
        return self.outcome == "within"

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
            "outcome": self.outcome,
            "verdict": self.verdict,
            "claim": self.claim,
            "pairs": self.pairs,
            "processes": self.processes,
            "pairs_needed": self.pairs_needed,
            "control": {"ratio": self.control_ratio, "ci95": list(self.control_ci95)},
            "median_seconds": {"a": self.median_seconds[0], "b": self.median_seconds[1]},
            "peak_memory": {"a": self.peak_memory[0], "b": self.peak_memory[1]},
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
            f"{self.a} -> {self.b}: {self.verdict}",
            f"  time     {first:.3f} ms -> {second:.3f} ms   {100 * (self.ratio - 1):+.2f} % "
            f"({low:+.2f} to {high:+.2f})",
            f"  control  A against itself {100 * (self.control_ratio - 1):+.2f} % "
            f"({control_low:+.2f} to {control_high:+.2f})",
            f"  pairs    {self.pairs} groups in {self.processes} processes{', partial' if self.partial else ''}",
        ]
        return "\n".join([*rows, *(f"  note     {note}" for note in self.notes)])
