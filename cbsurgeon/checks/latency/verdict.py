"""From raw samples to a benchmark with its verdict."""

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
"""Above this lag-1 autocorrelation the groups of one process say less than their number."""

CROWDED = 1.5
"""A load above this many running tasks per core means others were using the machine."""


@dataclass(frozen=True)
class Finding:
    """The estimates of one run: B against A, and A against itself."""

    measured: Estimate
    control: Estimate


def analyse(samples: Sequence[Process]) -> Finding:
    """Estimates from the samples of all processes.

    Raises:
        ValueError: fewer than six groups in all.
    """
    arms = [tuple(np.asarray(rows) for rows in (part.a, part.b, part.control)) for part in samples]
    measured = estimate([log_ratios(a, b) for a, b, _ in arms])
    return Finding(measured, estimate([log_ratios(a, control) for a, _, control in arms]))


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
    """The benchmark that these samples amount to.

    Raises:
        ValueError: fewer than six groups in all.
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
    """The verdict of the pairs in words, with the number it rests on."""
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
    """Facts that weaken or explain the verdict."""
    notes = []
    control = finding.control
    if not control.covers_one:
        notes.append(f"A differs from itself by {100 * (control.ratio - 1):+.2f} %: the machine was not even")
    elif control.upper95 > 1 + claim / 2:
        share = 100 * (control.upper95 - 1)
        notes.append(f"A is known to equal itself only to {share:.2f} %, half of the claim is {50 * claim:g} %")
    if processes == 1 and claim < ONE_PROCESS_FLOOR:
        notes.append(f"one process never proves less than {100 * ONE_PROCESS_FLOOR:g} %: layout differs by as much")
    if processes == 1 and finding.measured.autocorrelation > CORRELATED:
        notes.append(f"lag-1 autocorrelation {finding.measured.autocorrelation:.2f}: bounds are taken from blocks")
    cores = len(environment.get("affinity") or ()) or environment.get("cores") or 1
    busiest = max(max(part.load) for part in samples)
    if busiest > cores * CROWDED:
        notes.append(f"load reached {busiest:.1f} on {cores} cores: others used the machine")
    return notes
