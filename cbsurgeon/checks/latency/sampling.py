"""Taking raw samples of A, B and a second A (``control``) in one process, interleaved in mirrored groups."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cbsurgeon.checks.environment import load
from cbsurgeon.vocabulary import Progress

Call = Callable[[], object]
Timer = Callable[[int], float]
"""Runs a number of calls in a row and returns the seconds per call."""

ROTATION = ((0, 1, 2, 2, 1, 0), (1, 2, 0, 0, 2, 1), (2, 0, 1, 1, 0, 2))
"""Orders of A (0), B (1) and the second A (2): symmetric, and each model is at each position equally often."""

STEADY = 0.01
"""Warm-up ends when, for every model, the last two medians differ by less than this."""

MIN_GROUPS = 6
"""Fewest groups for which a 95 % interval exists."""

WARM_SECONDS = 10.0
"""Longest warm-up in seconds. If times still vary then, the cause is noise and not a cold start."""


@dataclass(frozen=True)
class Process:
    """Raw samples of one process, in the order they were taken.

    Attributes:
        a, b, control: seconds per call; ``control`` is a second copy of A, timed as if it were another model. Each row
            is one group, with the first and the last sample in the group.
        load: load average (1 minute) before and after.
        peak_memory: peak memory in bytes of A and of B; ``None`` if unknown.
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
class Pace:
    """How one process samples.

    Attributes:
        min_sample: shortest sample in seconds; a sample consists of as many calls as that takes.
        groups: number of groups to take.
        deadline: ``time.perf_counter()`` after which no further group is started, or ``None``. Samples
            become shorter, down to one call, if ``fewest`` groups would otherwise not be taken by then.
        fewest: number of groups to take even after the deadline.
    """

    min_sample: float
    groups: int
    deadline: float | None = None
    fewest: int = MIN_GROUPS


def nothing() -> None:
    """Do nothing: the synchronisation for calls that return when they are done."""


def warm_up(timers: Sequence[Timer], seconds: float) -> list[float]:
    """Run all timers in turn until they are steady; return the seconds per call of each."""
    stop = time.perf_counter() + seconds
    before: list[float] = []
    while True:
        times = [[timer(1) for timer in timers] for _ in range(3)]
        now = [statistics.median(column) for column in zip(*times, strict=True)]
        steady = before and all(abs(new / old - 1) < STEADY for new, old in zip(now, before, strict=True))
        if steady or time.perf_counter() > stop:
            return now
        before = now


def host_timer(call: Call, synchronize: Call = nothing) -> Timer:
    """Return a timer that uses the host's clock and waits for enqueued work."""

    def seconds(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize()
        return (time.perf_counter() - start) / calls

    return seconds


@dataclass(frozen=True)
class Timed:
    """A model ready to be timed, as built by a factory.

    Attributes:
        call: runs the model once.
        synchronize: waits until enqueued work is done.
        close: releases the model.
        timer: times calls; by default with the host's clock, waiting for enqueued work.
        clock: description of the timer's clock.
        mode: description of how it runs; only models in the same mode are compared.
        expected: relative L2 distance of its outputs from the baseline's in eager mode; ``None`` if unknown.
    """

    call: Call
    synchronize: Call = nothing
    close: Call = nothing
    timer: Timer | None = None
    clock: str = "clock of the host"
    mode: str = ""
    expected: float | None = None

    def timing(self) -> Timer:
        """Return its timer."""
        return self.timer or host_timer(self.call, self.synchronize)


def calls_per_sample(per_call: Sequence[float], min_sample: float) -> int:
    """Return the number of calls per sample, the same for every model so that samples are comparable."""
    return max(1, math.ceil(min_sample / max(min(per_call), 1e-9) - 1e-6))  # tolerates rounding


def groups_within(per_call: Sequence[float], min_sample: float, seconds: float) -> int:
    """Return how many groups of six samples fit into a number of seconds."""
    group = 2 * calls_per_sample(per_call, min_sample) * sum(per_call)
    return int(max(seconds, 0.0) / group)


def sample(
    timers: Sequence[Timer],
    pace: Pace,
    per_call: Sequence[float],
    *,
    progress: Progress | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Process:
    """Take the groups of one process.

    Args:
        timers: timers of A, B and the second A.
        pace: number of groups, length of a sample, deadline.
        per_call: seconds per call from the warm-up.
        progress: called with a message after every tenth of the groups.
        stopped: called before each group; if it returns true, the groups so far are returned.

    Raises:
        KeyboardInterrupt: interrupted before any group was complete; later, the groups so far are returned.
    """
    calls, group = calls_per_sample(per_call, pace.min_sample), 2 * sum(per_call)
    rows: list[tuple[tuple[float, float], ...]] = []
    load_before = load()[0]
    step = math.ceil(pace.groups / 10)
    with _no_collection():
        try:
            for index in range(pace.groups):
                late = pace.deadline is not None and time.perf_counter() > pace.deadline
                if stopped() or (late and len(rows) >= pace.fewest):
                    break
                if pace.deadline is not None and len(rows) < pace.fewest:
                    left = (pace.deadline - time.perf_counter()) / (pace.fewest - len(rows))
                    calls = max(1, min(calls, int(left / group)))
                began = time.perf_counter()
                rows.append(_group(timers, ROTATION[index % len(ROTATION)], calls))
                group = (time.perf_counter() - began) / calls
                if progress and (index + 1) % step == 0:
                    progress(f"{index + 1} of {pace.groups} groups")
        except KeyboardInterrupt:
            if not rows:
                raise
    a, b, control = zip(*rows, strict=True) if rows else ((), (), ())
    return Process(a, b, control, (load_before, load()[0]))


def _group(timers: Sequence[Timer], order: Sequence[int], calls: int) -> tuple[tuple[float, float], ...]:
    """Take two samples of each model, in this order."""
    taken: list[list[float]] = [[], [], []]
    for which in order:
        taken[which].append(timers[which](calls))
    return tuple((first, last) for first, last in taken)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable Python's garbage collector while samples are taken; collecting first takes seconds on a busy machine."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
