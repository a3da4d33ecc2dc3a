"""The verdict from both measurements: own time decides, the end-to-end pairs may contradict it."""

from __future__ import annotations

import math
from dataclasses import replace

from cbsurgeon.checks.latency.result import Benchmark
from cbsurgeon.checks.latency.share.result import OwnTime
from cbsurgeon.checks.latency.statistics import ONE_PROCESS_FLOOR, Verdict


def settle(benchmark: Benchmark, own: OwnTime | str) -> Benchmark:
    """The benchmark of the pairs with own time added, and the verdict that follows from both.

    * ``slower``: the lower bound of the own-time overhead is beyond the claim.
    * ``negligible``: its upper bound is within the claim.
    * ``faster``: its upper bound is below minus the claim.

    Each of these stands unless the pairs contradict it: unless their bounds, the control's own deviation taken off, lie
    wholly on the other side by more than the claim. One process contradicts by 2 % at the least, because the memory
    layout of two copies of one model differs by as much. What is contradicted is ``inconclusive``, with the reason; but
    pairs of several processes that prove a slow-down are believed where own time shows none, because a run may become
    slower outside its operators. Where the claim lies within the interval of own time, the pairs decide.

    Args:
        benchmark: of the pairs alone.
        own: what :func:`~cbsurgeon.checks.latency.share.measuring.own_time` gave; a sentence is kept as the reason.
    """
    if isinstance(own, str):
        return replace(benchmark, own_missing=own)
    benchmark = replace(benchmark, notes=tuple(f"end to end: {note}" for note in benchmark.notes))
    claim, overhead = benchmark.claim, own.overhead
    room = max(claim, ONE_PROCESS_FLOOR) if benchmark.processes == 1 else claim
    bias = math.exp(_bias(benchmark))
    low, high = benchmark.lower95 / bias - 1, benchmark.upper95 * bias - 1
    agree = low - room <= overhead.value <= high + room
    found: Verdict
    if overhead.lower95 > claim:
        found, against = "slower", high < overhead.value - room
    elif overhead.upper95 < -claim:
        found, against = "faster", low > overhead.value + room
    elif overhead.upper95 <= claim:
        found, against = "negligible", low > room
    else:
        return _undecided(benchmark, own, agree)
    if against:
        return _contradicted(benchmark, own, found)
    words = "end to end agrees" if agree else "end to end differs, but not against this"
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
    """The claim lies inside the interval of own time: the pairs have the word."""
    sentence = benchmark.sentence
    if benchmark.verdict == "inconclusive":
        sentence = (
            f"INCONCLUSIVE: the own-time overhead is {_interval(own)}, the end-to-end one {_pairs(benchmark)}; neither "
            f"settles the claim; measure longer with --budget ({_stated(benchmark)})"
        )
    return replace(benchmark, own=own, sentence=sentence, pairs_agree=agree)


def _contradicted(benchmark: Benchmark, own: OwnTime, found: Verdict) -> Benchmark:
    """Own time says one thing, the pairs another."""
    if benchmark.verdict == "slower" and found == "negligible" and benchmark.processes > 1:
        sentence = f"{benchmark.sentence}; the operators that A and B do not share explain {_interval(own)} of it"
        return replace(benchmark, own=own, sentence=sentence, pairs_agree=False)
    sentence = (
        f"INCONCLUSIVE: the operators say {_own_words(own, found)}, the end-to-end times {_pairs(benchmark)}; "
        f"measure on a quieter machine, or in several processes with --processes 5 ({_stated(benchmark)})"
    )
    return replace(benchmark, own=own, verdict="inconclusive", sentence=sentence, pairs_agree=False)


def _own_words(own: OwnTime, found: Verdict) -> str:
    middle, low, high = (100 * value for value in (own.overhead.value, *own.overhead.ci95))
    if found == "faster":
        return f"faster by {-middle:.2f} % (95 % interval {-high:.2f} to {-low:.2f} %)"
    if found == "slower":
        return f"slower by {middle:.2f} % (95 % interval {low:.2f} to {high:.2f} %)"
    if not own.graph:
        return "negligible: both execute the same operators"
    return f"negligible: {middle:+.2f} % by operator times (95 % interval {low:+.2f} to {high:+.2f} %)"


def _interval(own: OwnTime) -> str:
    low, high = (100 * bound for bound in own.overhead.ci95)
    return f"{low:+.2f} to {high:+.2f} %"


def _pairs(benchmark: Benchmark) -> str:
    low, high = (100 * (bound - 1) for bound in benchmark.ci95)
    return f"{low:+.2f} to {high:+.2f} %"


def _stated(benchmark: Benchmark) -> str:
    return f"claim: {100 * benchmark.claim:g} %"
