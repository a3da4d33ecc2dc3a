"""The program of a measuring process: reads a task from a folder, reports progress, writes the answer there."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cbsurgeon.checks.environment import environment, reset_peak, resident_bytes
from cbsurgeon.checks.latency.comparison import WARM_SHARE, Answer, Factory, Task
from cbsurgeon.checks.latency.device import memory_in_use
from cbsurgeon.checks.latency.running import require_comparable
from cbsurgeon.checks.latency.sampling import ROTATION, WARM_SECONDS, Pace, Timed, groups_within, sample, warm_up
from cbsurgeon.errors import CBSurgeonError
from cbsurgeon.vocabulary import Progress


def main(folder: Path) -> None:
    """Run the task in a folder and write its answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which asks this process to stop
    progress = _channel()
    task: Task = pickle.loads((folder / "task").read_bytes())  # written by the parent process
    try:
        answer: Answer | CBSurgeonError = answered(task, progress, (folder / "stop").exists)
    except CBSurgeonError as error:
        answer = error
    unfinished = folder / "answer.part"
    unfinished.write_bytes(pickle.dumps(answer))
    unfinished.replace(folder / "answer")


def answered(task: Task, progress: Progress, stopped: Callable[[], bool]) -> Answer:
    """Build A, B and a second A, warm up, and take the samples."""
    left = math.inf if task.deadline is None else task.deadline - time.time()
    progress("building")
    timed, peak = _build(task)
    require_comparable(timed[0], timed[1])
    timers = [item.timing() for item in timed]
    progress("warming up")
    per_call = warm_up(timers, min(WARM_SECONDS, WARM_SHARE * left))
    start = time.perf_counter()
    left = 0.0 if task.deadline is None else task.deadline - time.time()
    groups = task.groups or max(groups_within(per_call, task.min_sample, left), len(ROTATION))
    pace = Pace(task.min_sample, groups, None if task.deadline is None else start + left, fewest=len(ROTATION))
    samples = sample(timers, pace, per_call, progress=progress, stopped=stopped)
    seconds = time.perf_counter() - start
    stamp = {**environment(), "clock": timed[0].clock}
    for item in timed:
        item.close()
    return Answer(replace(samples, peak_memory=peak), seconds, stamp)


def _build(task: Task) -> tuple[list[Timed], tuple[int | None, int | None]]:
    """Build A, B and a second A, starting with number ``index``; return them, and the memory the first one took."""
    factories = (task.a, task.b, task.a)
    first = task.index % len(factories)
    built: dict[int, Timed] = {}
    peaks: dict[int, int | None] = {}
    for step in range(len(factories)):
        which = (first + step) % len(factories)
        highest = _meter(factories[which])
        built[which] = factories[which]()
        built[which].call()
        built[which].synchronize()
        if step == 0:
            peaks[0 if which == 2 else which] = highest()
    return [built[which] for which in range(3)], (peaks.get(0), peaks.get(1))


def _meter(factory: Factory) -> Callable[[], int | None]:
    """Return a function that returns the peak memory in bytes since now: of the GPU if used, else of this process.

    Libraries do not release GPU memory, so the memory in use after a call is the peak.
    """
    on_device = memory_in_use(getattr(factory, "device", "cpu"))
    if on_device is not None:
        first = on_device()
        return lambda: on_device() - first
    before, can = resident_bytes(), reset_peak()

    def highest() -> int | None:
        most = resident_bytes(peak=True)
        return most - before if can and before is not None and most is not None else None

    return highest


def _channel() -> Progress:
    """Return a function that reports progress on standard output; other output is redirected to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: str) -> None:
        channel.write(json.dumps({"progress": message}) + "\n")
        channel.flush()

    return say


if __name__ == "__main__":
    main(Path(sys.argv[1]))
