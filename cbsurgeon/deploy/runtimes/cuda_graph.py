"""Recording work on a CUDA device once and replaying it: what a server does, and a timing without Python in it."""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM_RUNS = 3
"""Runs before recording: libraries choose kernels and allocate on the first ones, which a recording must not hold."""


def record(call: Callable[[], object], stream: torch.cuda.Stream) -> Callable[[], object]:
    """What a call does on a device, as a replay on ``stream``.

    The replay writes the same memory each time and enqueues only. It holds what the call returned, and the call.

    Raises:
        RuntimeError: the call cannot be recorded (it waits for the device, or copies to the host).
    """
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_RUNS):
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        held = call()

    def replay() -> object:
        with torch.cuda.stream(stream):
            graph.replay()
        return held

    return replay
