"""Combining both measurements to a verdict: own time decides, the end-to-end pairs may contradict it."""

from __future__ import annotations

import math
from dataclasses import replace

from cbsurgeon.checks.latency.result import Benchmark
from cbsurgeon.checks.latency.share.result import OwnTime
from cbsurgeon.checks.latency.statistics import ONE_PROCESS_FLOOR, Verdict


def settle(benchmark: Benchmark, own: OwnTime | str) -> Benchmark:
    """Add own time to the benchmark of the end-to-end pairs, and decide the verdict from both.

    Own time decides first:

    * ``slower``: the lower bound of its overhead is above the claim.
    * ``negligible``: the upper bound is at most the claim.
    * ``faster``: the upper bound is below minus the claim.
    * If the claim is inside the interval, the pairs decide alone.

    The interval of the pairs is widened by A's deviation from itself. The pairs contradict the verdict if the distance
    of this interval from the overhead by own time exceeds the claim (with one process, 2 %, because memory layout alone
    causes such differences). A contradicted verdict becomes ``inconclusive``, with two exceptions:

    * If the pairs show the same verdict with another amount, the verdict stays, and the sentence gives both amounts.
    * If pairs of several processes prove a slow-down and own time shows none, the verdict is ``slower``, because a run
      can become slower outside its operators.

    Args:
        benchmark: the result of the pairs alone.
        own: the result of :func:`~cbsurgeon.checks.latency.share.measuring.own_time`, or the reason why there is none.
    """
    if isinstance(own, str):
        return replace(benchmark, own_missing=own)
    benchmark = replace(benchmark, notes=tuple(f"end to end: {note}" for note in benchmark.notes))
    claim, overhead = benchmark.claim, own.overhead
    margin = max(claim, ONE_PROCESS_FLOOR) if benchmark.processes == 1 else claim
    bias = math.exp(_bias(benchmark))
    low, high = benchmark.lower95 / bias - 1, benchmark.upper95 * bias - 1
    agree = low - margin <= overhead.value <= high + margin
    found: Verdict
    if overhead.lower95 > claim:
        found, against = "slower", high < overhead.value - margin and low <= margin
    elif overhead.upper95 < -claim:
        found, against = "faster", low > overhead.value + margin and high >= -margin
    elif overhead.upper95 <= claim:
        found, against = "negligible", low > margin
    else:
        return _undecided(benchmark, own, agree)
    if against:
        return _contradicted(benchmark, own, found)
    near = benchmark.lower95 - 1 - margin <= overhead.value <= benchmark.upper95 - 1 + margin
    wide = benchmark.upper95 - benchmark.lower95 > 2 * max(margin, abs(overhead.value))
    if near and wide:
        words = "end-to-end times do not contradict this, but vary too much to confirm it"
    elif near:
        words = "end-to-end times agree"
    elif agree:  # if A's deviation from itself is taken into account
        drift = 100 * (benchmark.control_ratio - 1)
        words = f"end-to-end times cannot confirm this, as A differs from itself by {drift:+.2f} %"
    else:
        words = f"end-to-end times {_differing(found)}"
    return replace(
        benchmark,
        own=own,
        verdict=found,
        sentence=f"{_own_words(own, found)}; {words}: {_pairs(benchmark)} ({_stated(benchmark)})",
        pairs_agree=agree,
        pairs_needed=None,
    )


def _bias(benchmark: Benchmark) -> float:
    low, high = benchmark.control_ci95
    return 0.0 if low <= 1.0 <= high else abs(math.log(benchmark.control_ratio))


def _undecided(benchmark: Benchmark, own: OwnTime, agree: bool) -> Benchmark:
    """Return the verdict of the pairs, because own time cannot decide the claim."""
    sentence = benchmark.sentence
    if benchmark.verdict == "inconclusive":
        sentence = (
            f"INCONCLUSIVE: the overhead is {_interval(own)} by operator times and {_pairs(benchmark)} end to end; "
            f"neither settles the claim; measure longer, with a larger budget ({_stated(benchmark)})"
        )
    return replace(benchmark, own=own, sentence=sentence, pairs_agree=agree)


def _contradicted(benchmark: Benchmark, own: OwnTime, found: Verdict) -> Benchmark:
    """Return the verdict if own time and the pairs contradict each other."""
    if benchmark.verdict == "slower" and found == "negligible" and benchmark.processes > 1:
        sentence = f"{benchmark.sentence}; the inserted operators explain {_interval(own)} of it"
        return replace(benchmark, own=own, sentence=sentence, pairs_agree=False)
    sentence = (
        f"INCONCLUSIVE: operator times show {_own_words(own, found)}, end-to-end times {_pairs(benchmark)}; "
        "measure on a quieter machine, or in several processes: cbsurgeon bench A B --processes 5 "
        f"({_stated(benchmark)})"
    )
    return replace(benchmark, own=own, verdict="inconclusive", sentence=sentence, pairs_agree=False)


def _own_words(own: OwnTime, found: Verdict) -> str:
    middle, low, high = (100 * value for value in (own.overhead.value, *own.overhead.ci95))
    if found == "faster":
        return f"faster by {-middle:.2f} % (95 % interval {-high:.2f} to {-low:.2f} %)"
    if found == "slower":
        return f"slower by {middle:.2f} % (95 % interval {low:.2f} to {high:.2f} %)"
    if not own.graph:
        return f"negligible: both execute the same operators{', the inserted ones included' if own.sites else ''}"
    return f"negligible: {middle:+.2f} % by operator times (95 % interval {low:+.2f} to {high:+.2f} %)"


def _differing(found: Verdict) -> str:
    if found == "negligible":
        return "differ, but do not contradict this"
    return f"also show that B is {found}, but by another amount"


def _interval(own: OwnTime) -> str:
    low, high = (100 * bound for bound in own.overhead.ci95)
    return f"{low:+.2f} to {high:+.2f} %"


def _pairs(benchmark: Benchmark) -> str:
    low, high = (100 * (bound - 1) for bound in benchmark.ci95)
    return f"{low:+.2f} to {high:+.2f} %"


def _stated(benchmark: Benchmark) -> str:
    return f"claim: {100 * benchmark.claim:g} %"
