"""Timing three arms in one process: A, B, and A again as control, interleaved in mirrored groups; the raw samples."""

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
"""Seconds per call of so many calls in a row."""

ROTATION = ((0, 1, 2, 2, 1, 0), (1, 2, 0, 0, 2, 1), (2, 0, 1, 1, 0, 2))
"""Orders of A (0), B (1) and control (2): each is its own mirror image, and each arm takes each place equally often."""

STEADY = 0.01
"""Warm-up ends when the last two medians of every arm differ by less."""

MIN_GROUPS = 6
"""Fewer groups give no 95 % interval at all."""

WARM_SECONDS = 10.0
"""Longest warm-up: an arm that is not steady by then is noisy, not cold."""


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
class Pace:
    """How one process samples.

    Attributes:
        min_sample: seconds one sample lasts at least; it holds as many calls as that takes.
        groups: groups to take.
        deadline: ``time.perf_counter()`` after which no further group is begun, or ``None``.
        fewest: groups to take even past the deadline.
    """

    min_sample: float
    groups: int
    deadline: float | None = None
    fewest: int = MIN_GROUPS


def nothing() -> None:
    """The synchronisation of arms that return when they are done."""


def warm_up(arms: Sequence[Timer], seconds: float) -> list[float]:
    """Time all arms in turn until they are steady; returns seconds per call of each."""
    stop = time.perf_counter() + seconds
    before: list[float] = []
    while True:
        times = [[arm(1) for arm in arms] for _ in range(3)]
        now = [statistics.median(column) for column in zip(*times, strict=True)]
        steady = before and all(abs(new / old - 1) < STEADY for new, old in zip(now, before, strict=True))
        if steady or time.perf_counter() > stop:
            return now
        before = now


def host_timer(call: Call, synchronize: Call = nothing) -> Timer:
    """Times calls by the clock of this machine, until nothing that they enqueued is left to do."""

    def seconds(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize()
        return (time.perf_counter() - start) / calls

    return seconds


@dataclass(frozen=True)
class Timed:
    """What a factory builds: something to call, and how to wait for it and put it away.

    Attributes:
        call: computes once.
        synchronize: waits until what was enqueued is done.
        close: gives back what was opened.
        timer: measures calls; by the clock of the host, and waiting, when left out.
        clock: what the timer reads, in words.
        mode: how it runs, in words; two sides are compared in one mode only.
        expected: relative L2 distance of its outputs to the baseline's, from the eager models; ``None`` if unknown.
    """

    call: Call
    synchronize: Call = nothing
    close: Call = nothing
    timer: Timer | None = None
    clock: str = "clock of the host"
    mode: str = ""
    expected: float | None = None

    def timing(self) -> Timer:
        """What measures it."""
        return self.timer or host_timer(self.call, self.synchronize)


def calls_per_sample(per_call: Sequence[float], min_sample: float) -> int:
    """The same number for every arm, so that none gains by a longer sample."""
    return max(1, math.ceil(min_sample / max(min(per_call), 1e-9) - 1e-6))  # a hair short is long enough


def groups_within(per_call: Sequence[float], min_sample: float, seconds: float) -> int:
    """How many groups of six samples fit into a time."""
    group = 2 * calls_per_sample(per_call, min_sample) * sum(per_call)
    return int(max(seconds, 0.0) / group)


def sample(
    arms: Sequence[Timer],
    pace: Pace,
    per_call: Sequence[float],
    *,
    progress: Progress | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Process:
    """Take the groups of one process.

    Args:
        arms: timers of A, B and the control arm.
        pace: how many groups, how long a sample lasts, when to stop.
        per_call: seconds per call from the warm-up.
        progress: told about every tenth of the way.
        stopped: asked before each group; true ends the run with what there is.

    Raises:
        KeyboardInterrupt: before any group was complete; later, the groups so far are returned.
    """
    calls = calls_per_sample(per_call, pace.min_sample)
    rows: list[tuple[tuple[float, float], ...]] = []
    load_before = load()[0]
    step = math.ceil(pace.groups / 10)
    with _no_collection():
        try:
            for index in range(pace.groups):
                late = pace.deadline is not None and time.perf_counter() > pace.deadline
                if stopped() or (late and len(rows) >= pace.fewest):
                    break
                rows.append(_group(arms, ROTATION[index % len(ROTATION)], calls))
                if progress and (index + 1) % step == 0:
                    progress(f"{index + 1} of {pace.groups} groups")
        except KeyboardInterrupt:
            if not rows:
                raise
    a, b, control = zip(*rows, strict=True) if rows else ((), (), ())
    return Process(a, b, control, (load_before, load()[0]))


def _group(arms: Sequence[Timer], order: Sequence[int], calls: int) -> tuple[tuple[float, float], ...]:
    """Two samples of each arm."""
    taken: list[list[float]] = [[], [], []]
    for place in order:
        taken[place].append(arms[place](calls))
    return tuple((first, last) for first, last in taken)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of the samples."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
