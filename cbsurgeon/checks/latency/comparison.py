"""Comparing the run times of two callables, in this process or in several new ones."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cbsurgeon.checks.environment import environment
from cbsurgeon.checks.latency.result import Benchmark
from cbsurgeon.checks.latency.sampling import (
    MIN_GROUPS,
    WARM_SECONDS,
    Call,
    Pace,
    Process,
    Timed,
    Timer,
    groups_within,
    host_timer,
    nothing,
    sample,
    warm_up,
)
from cbsurgeon.checks.latency.verdict import conclude
from cbsurgeon.errors import CBSurgeonError, CheckFailed
from cbsurgeon.vocabulary import Progress

PROCESSES = 5
"""Processes of a full run: the fewest for which Student's bound is useful (factor 2.1)."""

GROUPS = 24
"""Groups per process of a full run: finds a 2 % slow-down in over 90 % of runs at 1.5 % noise per sample."""

WARM_SHARE = 0.25
"""Largest fraction of a process's time for warming up."""


Factory = Callable[[], Timed]


@dataclass(frozen=True)
class Task:
    """The task of one measuring process; picklable.

    Attributes:
        a, b: picklable factories; A is built twice, to compare it with itself.
        index: number of the process; decides the order in which the models are built.
        min_sample: seconds per sample.
        groups: groups to take; ``None`` to take as many as fit before ``deadline``.
        deadline: ``time.time()`` at which the process should have ended; ``None`` for no limit.
    """

    a: Factory
    b: Factory
    index: int
    min_sample: float
    groups: int | None
    deadline: float | None


@dataclass(frozen=True)
class Answer:
    """The answer of a measuring process: its samples, the seconds they took, and its environment."""

    samples: Process
    seconds: float = 0.0
    environment: dict[str, Any] = field(default_factory=dict)


def compare(
    a: Call,
    b: Call,
    *,
    pairs: int = 60,
    min_sample_ms: float = 20.0,
    claim: float = 0.01,
    budget: float | None = None,
    names: tuple[str, str] = ("A", "B"),
    control: Call | None = None,
    synchronize: Call = nothing,
    progress: Progress | None = None,
) -> Benchmark:
    """Compare the run times of two callables in this process. One process cannot prove a claim below 2 %.

    Args:
        a, b: the callables.
        pairs: number of groups if there is no budget.
        min_sample_ms: shortest sample in milliseconds.
        claim: the largest slow-down of B, as a fraction, to be proved.
        budget: seconds in total; decides the number of groups in advance.
        names: names of A and B in the result.
        control: A built a second time; by default A itself.
        synchronize: waits until enqueued work is done.
        progress: called with a message at each step.

    Raises:
        KeyboardInterrupt: interrupted before there was a result; later, the result so far is returned, marked partial.
    """
    timers = [host_timer(call, synchronize) for call in (a, b, control or a)]
    return compare_timers(
        timers, pairs=pairs, min_sample_ms=min_sample_ms, claim=claim, budget=budget, names=names, progress=progress
    )


def compare_timers(
    timers: Sequence[Timer],
    *,
    pairs: int = 60,
    min_sample_ms: float = 20.0,
    claim: float = 0.01,
    budget: float | None = None,
    names: tuple[str, str] = ("A", "B"),
    progress: Progress | None = None,
) -> Benchmark:
    """Compare as :func:`compare` does, with timers instead of callables.

    Args:
        timers: timers of A, B and a second A.
        pairs, min_sample_ms, claim, budget, names, progress: as :func:`compare`.
    """
    start = time.perf_counter()
    limit = WARM_SECONDS if budget is None else min(WARM_SECONDS, WARM_SHARE * budget)
    per_call = warm_up(timers, limit)
    left = None if budget is None else budget - (time.perf_counter() - start)
    wanted = pairs if left is None else groups_within(per_call, min_sample_ms / 1e3, left)
    groups = max(wanted, MIN_GROUPS)
    pace = Pace(min_sample_ms / 1e3, groups, None if budget is None else start + budget)
    taken = sample(timers, pace, per_call, progress=progress)
    if len(taken.a) < MIN_GROUPS:
        raise KeyboardInterrupt
    partial = len(taken.a) < groups and budget is None
    return conclude([taken], names=names, claim=claim, environment=environment(), partial=partial)


def compare_processes(
    a: Factory,
    b: Factory,
    *,
    processes: int = PROCESSES,
    groups: int = GROUPS,
    min_sample_ms: float = 20.0,
    claim: float = 0.01,
    budget: float | None = None,
    names: tuple[str, str] = ("A", "B"),
    progress: Progress | None = None,
) -> Benchmark:
    """Compare the run times of what two factories build, in several new processes.

    Args:
        a, b: picklable factories, called in each process.
        processes: number of processes.
        groups: groups per process if there is no budget.
        min_sample_ms, claim, names, progress: see :func:`compare`.
        budget: seconds in total, including the start of the processes.

    Raises:
        CheckFailed: a process failed (CB-BENCH-02); the message contains its last output.
        CBSurgeonError: an error of a factory.
        KeyboardInterrupt: interrupted before there was a result; later, the result so far is returned, marked partial.
    """
    start, answers, interrupted = time.time(), list[Answer](), False
    planned, index = groups if budget is None else None, 0
    try:
        while index < processes and not interrupted:
            began = time.time()
            deadline = None if budget is None else began + (start + budget - began) / (processes - index)
            task = Task(a, b, index, min_sample_ms / 1e3, planned, deadline)
            label = f"process {index + 1} of {processes}"
            answer, interrupted = _in_fresh_process(task, progress and _prefixed(progress, label))
            if not interrupted or 2 * len(answer.samples.a) >= len((answers or [answer])[0].samples.a):
                answers.append(answer)  # groups are cut to the shortest process, so one interrupted early is left out
            if budget is not None and index == 0:
                processes = _affordable(processes, start + budget - time.time(), time.time() - began - answer.seconds)
            planned, index = planned or len(answer.samples.a), index + 1
    except KeyboardInterrupt:
        interrupted = True
    if min((len(item.samples.a) for item in answers), default=0) * len(answers) < MIN_GROUPS:
        raise KeyboardInterrupt
    return conclude(
        [item.samples for item in answers],
        names=names,
        claim=claim,
        environment=answers[0].environment,
        peak_memory=_peak(answers),
        partial=interrupted,
    )


def _affordable(processes: int, seconds: float, start: float) -> int:
    """Return the number of processes that leaves a third of the time for samples; at least three."""
    return min(processes, 1 + max(2, int(seconds / (1.5 * max(start, 1e-3)))))


def _prefixed(progress: Progress, label: str) -> Progress:
    return lambda message: progress(f"{label}: {message}")


def _peak(answers: Sequence[Answer]) -> tuple[int | None, int | None]:
    """Return the median peak memory of A and B, over the processes in which each was built first."""
    found = []
    for model in (0, 1):
        values = sorted(value for item in answers if (value := item.samples.peak_memory[model]) is not None)
        found.append(values[len(values) // 2] if values else None)
    return found[0], found[1]


def _in_fresh_process(task: Task, progress: Progress | None) -> tuple[Answer, bool]:
    """Run one task in a new interpreter; return its answer, and whether it was interrupted.

    ``multiprocessing`` is not used, because it would run the caller's main script again.
    """
    with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as place:
        question, answer, stop = (Path(place) / name for name in ("task", "answer", "stop"))
        question.write_bytes(pickle.dumps(task))
        words = Path(place) / "stderr"
        with words.open("wb") as errors:
            child = subprocess.Popen(
                [sys.executable, "-m", "cbsurgeon.checks.latency.child", place],
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                text=True,
            )
            interrupted = _listen(child, stop, progress)
        if answer.exists():
            found: Answer | CBSurgeonError = pickle.loads(answer.read_bytes())  # written by our own child process
            if isinstance(found, CBSurgeonError):
                raise found
            return found, interrupted
        if interrupted:
            raise KeyboardInterrupt
        raise _failed(words, child.returncode)


def _listen(child: subprocess.Popen[str], stop: Path, progress: Progress | None) -> bool:
    """Report the child's progress until it ends; on Ctrl-C ask it to stop. Return whether it was interrupted."""
    interrupted = False
    while True:
        try:
            for message in _messages(child):
                if progress and not interrupted:
                    progress(message)
            child.wait()
            return interrupted
        except KeyboardInterrupt:
            if interrupted:
                child.terminate()
            interrupted = True
            stop.touch()


def _messages(child: subprocess.Popen[str]) -> Iterator[str]:
    assert isinstance(child.stdout, io.TextIOBase)
    for line in child.stdout:
        with suppress(json.JSONDecodeError):  # ignore other output
            message = json.loads(line)
            if isinstance(message, dict) and "progress" in message:
                yield str(message["progress"])


def _failed(words: Path, code: int | None) -> CheckFailed:
    lines = words.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return CheckFailed(
        "a measuring process failed",
        code="CB-BENCH-02",
        where=str(words),
        why=f"exit code {code}; its last output: {' / '.join(lines[-2:]) or 'none'}",
        do="run the same model with `cbsurgeon verify`; if that works, measure with --processes 1",
    )
