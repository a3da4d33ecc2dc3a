"""Computing a benchmark result, with its verdict, from raw samples."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cbsurgeon.checks.latency.result import Benchmark
from cbsurgeon.checks.latency.sampling import Process
from cbsurgeon.checks.latency.statistics import (
    ONE_PROCESS_FLOOR,
    Estimate,
    Verdict,
    estimate,
    judge,
    log_ratios,
    pairs_needed,
)

CORRELATED = 0.2
"""Lag-1 autocorrelation above which a note says that the groups of one process are not independent."""

CROWDED = 1.5
"""Running tasks per core above which a note says that other programs were using the machine."""


@dataclass(frozen=True)
class Finding:
    """The estimates of one benchmark: B against A, and A against itself."""

    measured: Estimate
    control: Estimate


def analyse(samples: Sequence[Process]) -> Finding:
    """Compute the estimates from the samples of all processes.

    Raises:
        ValueError: fewer than six groups in total.
    """
    taken = [tuple(np.asarray(rows) for rows in (part.a, part.b, part.control)) for part in samples]
    measured = estimate([log_ratios(a, b) for a, b, _ in taken])
    return Finding(measured, estimate([log_ratios(a, control) for a, _, control in taken]))


def conclude(
    samples: Sequence[Process],
    *,
    names: tuple[str, str] = ("A", "B"),
    claim: float,
    environment: Mapping[str, Any],
    peak_memory: tuple[int | None, int | None] = (None, None),
    partial: bool = False,
    notes: Sequence[str] = (),
) -> Benchmark:
    """Return the benchmark result for these samples.

    Raises:
        ValueError: fewer than six groups in total.
    """
    finding, processes = analyse(samples), len(samples)
    measured, control = finding.measured, finding.control
    verdict = judge(measured, control, claim, processes)
    needed = pairs_needed(measured, control, claim, processes) if verdict == "inconclusive" else None
    return Benchmark(
        a=names[0],
        b=names[1],
        ratio=measured.ratio,
        ci95=measured.ci95,
        upper95=measured.upper95,
        lower95=measured.lower95,
        verdict=verdict,
        sentence=sentence(verdict, measured, claim, needed),
        claim=claim,
        pairs=measured.groups,
        processes=processes,
        pairs_needed=needed,
        control_ratio=control.ratio,
        control_ci95=control.ci95,
        median_seconds=(_median(part.a for part in samples), _median(part.b for part in samples)),
        peak_memory=peak_memory,
        environment=environment,
        samples=tuple(samples),
        partial=partial,
        notes=(*notes, *_notes(finding, claim, processes, samples, environment)),
    )


def sentence(verdict: Verdict, measured: Estimate, claim: float, needed: int | None) -> str:
    """Return the verdict of the pairs as a sentence."""
    bound, least = 100 * (measured.upper95 - 1), 100 * (measured.lower95 - 1)
    middle, stated = 100 * (measured.ratio - 1), f"(claim: {100 * claim:g} %)"
    if verdict == "negligible":
        return f"negligible: at most {max(bound, 0.01):.2f} % slower with 95 % confidence {stated}"
    if verdict == "faster":
        return f"faster by {-middle:.2f} %, at least {-bound:.2f} % with 95 % confidence {stated}"
    if verdict == "slower":
        return f"slower by {middle:.2f} %, at least {least:.2f} % with 95 % confidence {stated}"
    settle = f"about {needed} pairs would settle it" if needed else "more pairs alone would not settle it"
    return f"INCONCLUSIVE: between {least:+.2f} % and {bound:+.2f} %; {settle} {stated}"


def _median(rows: Any) -> float:
    return float(statistics.median(value for part in rows for row in part for value in row))


def _notes(
    finding: Finding, claim: float, processes: int, samples: Sequence[Process], environment: Mapping[str, Any]
) -> list[str]:
    """Return notes that limit or explain the verdict."""
    notes = []
    control = finding.control
    if not control.covers_one:
        notes.append(f"A differs from itself by {100 * (control.ratio - 1):+.2f} %: the machine was disturbed")
    elif control.upper95 > 1 + claim / 2:
        share = 100 * (control.upper95 - 1)
        notes.append(f"the two copies of A are equal only within {share:.2f} %; the claim needs {50 * claim:g} %")
    if processes == 1 and claim < ONE_PROCESS_FLOOR:
        notes.append(
            f"one process cannot prove a claim below {100 * ONE_PROCESS_FLOOR:g} %: memory layout changes times as much"
        )
    if processes == 1 and finding.measured.autocorrelation > CORRELATED:
        notes.append(
            f"groups are correlated ({finding.measured.autocorrelation:.2f}): bounds are computed from blocks of groups"
        )
    cores = len(environment.get("affinity") or ()) or environment.get("cores") or 1
    busiest = max(max(part.load) for part in samples)
    if busiest > cores * CROWDED:
        notes.append(f"the load reached {busiest:.1f} on {cores} cores: other programs used the machine")
    return notes
