"""Running two models in turns, so that a disturbance of the machine affects both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cbsurgeon.checks.latency.share.trace import Trace

WARM = 2
"""Number of warm-up runs, in which memory is planned and caches are filled."""

ROUND = (0, 1, 1, 0)
"""Order of A (0) and B (1) in one round; it is symmetric, so a steady drift favours neither."""

FEWEST, PATIENCE = 12, 2.0
"""Fewest runs of each model, and by how much the requested time may be exceeded to reach them."""


@dataclass(frozen=True)
class Profiled:
    """The profiles of A, B and a second A.

    Attributes:
        traces: the traces of A, B and the second A; a sentence instead of a trace that cannot be read.
        method: name of the profiler.
        opening: seconds for opening and compiling the models.
    """

    traces: tuple[Trace | str, Trace | str, Trace | str]
    method: str
    opening: float = 0.0


def take_turns(calls: Sequence[Callable[[], object]], seconds: float, most: int) -> int:
    """Call A and B in turns until the time is up.

    Args:
        calls: the calls of A and of B, already warm.
        seconds: the time in total; slow models get up to :data:`PATIENCE` times as long.
        most: most calls of each.

    Returns:
        The number of calls of each.
    """
    start, count = time.perf_counter(), 0
    while count < most:
        spent = time.perf_counter() - start
        if spent > (seconds if count >= FEWEST else PATIENCE * seconds):
            break
        for which in ROUND:
            calls[which]()
        count += 2
    return count
