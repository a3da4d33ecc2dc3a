"""Timing on a CUDA device with events on the stream that does the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from cbsurgeon.checks.latency.sampling import Call, Timer, host_timer

if TYPE_CHECKING:
    from cbsurgeon.deploy.runtimes import Runtime

EVENTS, HOST = "events of the device", "clock of the host"


def timer_of(runtime: Runtime, call: Call) -> Timer:
    """Return a timer for a prepared call: by CUDA events if the runtime's stream is known, else by the host's clock.

    ONNX Runtime, for example, does not expose its stream; each of its calls is timed until it has finished.
    """
    if runtime.stream is None:
        return host_timer(call, runtime.synchronize)
    return device_timer(call, runtime.stream)


def clock_of(runtime: Runtime) -> str:
    """Return a description of the clock that :func:`timer_of` uses."""
    return HOST if runtime.stream is None else EVENTS


def device_timer(call: Call, stream: torch.cuda.Stream) -> Timer:
    """Return a timer that records an event before and one after the calls; Python overhead is not counted."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]

    def time(calls: int) -> float:
        with torch.cuda.stream(stream):
            start.record(stream)
            for _ in range(calls):
                call()
            end.record(stream)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / calls  # elapsed_time is in milliseconds

    return time


def memory_in_use(device: str) -> Callable[[], int] | None:
    """Return a function that reads the memory in use on a CUDA device, by all libraries; ``None`` for a CPU."""
    gpu = torch.device(device)
    if gpu.type != "cuda":
        return None
    torch.cuda.synchronize(gpu)  # creates the CUDA context, so that no model is charged for it

    def used() -> int:
        free, total = torch.cuda.mem_get_info(gpu)
        return total - free

    return used
