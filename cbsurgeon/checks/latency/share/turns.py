"""Running two models in turns, so that whatever disturbs the machine disturbs both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cbsurgeon.checks.latency.share.trace import Trace

WARM = 2
"""Runs before those that count: memory is planned and caches are filled on the first ones."""

ROUND = (0, 1, 1, 0)
"""One round of turns; it is its own mirror image, so that a steady drift favours neither."""

FEWEST, PATIENCE = 12, 3.0
"""Runs of each model that make a useful interval; for these, up to so many times the seconds asked for are taken."""


@dataclass(frozen=True)
class Profiled:
    """What a profiler saw.

    Attributes:
        traces: of A, of B and of A opened a second time; a sentence in the place of one that cannot be read.
        method: the profiler, in words.
    """

    traces: tuple[Trace | str, Trace | str, Trace | str]
    method: str


def take_turns(calls: Sequence[Callable[[], object]], seconds: float, most: int) -> int:
    """Call A and B in turns until the time is over.

    Args:
        calls: of A and of B, warm already.
        seconds: for all of it; slow models get up to :data:`PATIENCE` times as long.
        most: calls of each.

    Returns:
        How often each was called.
    """
    start, count = time.perf_counter(), 0
    while count < most:
        spent = time.perf_counter() - start
        if spent > (seconds if count >= FEWEST else PATIENCE * seconds):
            break
        for place in ROUND:
            calls[place]()
        count += 2
    return count
