"""Timing on a CUDA device by its own clock: events before and after, on the stream that does the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from cbsurgeon.checks.latency.sampling import Call, Timer, host_timer

if TYPE_CHECKING:
    from cbsurgeon.deploy.runtimes import Runtime

EVENTS, HOST = "events of the device", "clock of the host"


def timer_of(runtime: Runtime, call: Call) -> Timer:
    """How to time a prepared call: by events where it enqueues on a known stream of a device, by the host's clock else.

    A runtime whose stream is not ours to see (ONNX Runtime's) is waited for, and timed by the host.
    """
    if runtime.stream is None:
        return host_timer(call, runtime.synchronize)
    return device_timer(call, runtime.stream)


def clock_of(runtime: Runtime) -> str:
    """In words, what :func:`timer_of` chooses."""
    return HOST if runtime.stream is None else EVENTS


def device_timer(call: Call, stream: torch.cuda.Stream) -> Timer:
    """Times calls that enqueue on a stream by two events on it: Python and launches that keep ahead cost nothing."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]

    def time(calls: int) -> float:
        with torch.cuda.stream(stream):
            start.record(stream)
            for _ in range(calls):
                call()
            end.record(stream)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / calls  # it tells milliseconds

    return time


def memory_in_use(device: str) -> Callable[[], int] | None:
    """Reads the memory in use on a CUDA device, by whatever library; ``None`` for a processor."""
    place = torch.device(device)
    if place.type != "cuda":
        return None
    torch.cuda.synchronize(place)  # makes the context, which belongs to neither model

    def used() -> int:
        free, total = torch.cuda.mem_get_info(place)
        return total - free

    return used
