"""The profile of two models from ``torch.profiler``: operators on the CPU, or kernels on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch

from cbsurgeon.checks.latency.factory import RuntimeFactory
from cbsurgeon.checks.latency.running import require_comparable
from cbsurgeon.checks.latency.share import kernels, operators
from cbsurgeon.checks.latency.share.estimate import FEWEST_RUNS, undisturbed
from cbsurgeon.checks.latency.share.events import labelled, recorded
from cbsurgeon.checks.latency.share.trace import Run, Trace, trace_of
from cbsurgeon.checks.latency.share.turns import WARM, Profiled, take_turns

NAMES = ("A", "B", "A again")

MOST_EVENTS = 50_000
"""Most events to record per model: each is half a kilobyte of JSON."""

GPU_WARM_SECONDS = 1.0
"""Seconds of back-to-back runs on a GPU before the profile: an idle GPU needs them to reach its full clock rate."""

CROWDED, ALONE_RUNS = 1.5, 5
"""Largest ratio of the time with several threads and with one, which is the shortest of so many runs. Above it, the
threads wait for each other, and the large operators, which use several, seem to take more of a run than they do."""


def profile(factories: Sequence[RuntimeFactory], seconds: float) -> Profiled | str:
    """Profile a second A once, then A and B in turns; see :mod:`cbsurgeon.checks.latency.share.measuring`."""
    start = time.perf_counter()
    gpu = torch.device(factories[0].device).type == "cuda"
    reader = kernels if gpu else operators
    with ExitStack() as stack:
        stack.enter_context(_kernel_names(factories[0].spec.chosen))
        timed = [factory() for factory in factories]
        for one in timed:
            stack.callback(one.close)
        require_comparable(timed[0], timed[1])
        calls = [labelled(one.call, one.synchronize, name) for one, name in zip(timed, NAMES, strict=True)]
        _warm_up(calls, GPU_WARM_SECONDS if gpu else 0.0)
        opening = time.perf_counter() - start  # includes compilation, which happens at the first call
        began = time.perf_counter()
        counted = [event for event in recorded(calls[:2], gpu=gpu) if event.get("ph") == "X"]
        each = (time.perf_counter() - began) / 2  # reading included, which is slow on a busy machine
        most = max(FEWEST_RUNS, min(MOST_EVENTS // max(1, len(counted) // 2), int(seconds / each)))

        def turns() -> None:
            calls[2]()
            take_turns(calls[:2], seconds, most)

        events = recorded([turns], gpu=gpu)
        alone = None if gpu or factories[0].spec.chosen == "compile" else _on_one_thread(timed[0].call)
    runs: dict[str, list[Run]] = {name: [] for name in NAMES}
    for name, run in reader.runs_of(events):
        runs[name].append(run)
    traces = [trace_of(runs[name]) for name in NAMES]
    if alone is not None and isinstance(traces[0], Trace):
        threads, busy = torch.get_num_threads(), undisturbed(traces[0].times).sum() / 1e6
        if busy > CROWDED * alone:
            return (
                f"with {threads} threads, the operators of A take {1e3 * busy:.3g} ms, and a run on one thread takes "
                f"{1e3 * alone:.3g} ms: threads wait for each other, because other work uses the processor. Use one "
                "thread (--threads 1), or a quieter machine"
            )
    return Profiled((traces[0], traces[1], traces[2]), reader.METHOD, opening)


def _on_one_thread(call: Callable[[], object]) -> float | None:
    """Return the seconds of the fastest run on one thread; ``None`` if there is only one thread anyway."""
    threads, times = torch.get_num_threads(), []
    if threads == 1:
        return None
    torch.set_num_threads(1)
    try:
        for _ in range(ALONE_RUNS):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return min(times)


def _warm_up(calls: Sequence[Callable[[], None]], seconds: float) -> None:
    """Make each call at least :data:`WARM` times, and go on until the time is up."""
    start, count = time.perf_counter(), 0
    while count < WARM or time.perf_counter() - start < seconds:
        for call in calls:
            call()
        count += 1


def _kernel_names(backend: str) -> AbstractContextManager[object]:
    """Return a context in which Inductor compiles kernels that report their names to the profiler."""
    if backend != "compile":
        return nullcontext()
    import torch._inductor.config as inductor

    patched: AbstractContextManager[object] = inductor.patch({"cpp.enable_kernel_profile": True})
    return patched
