"""Recording work as a CUDA graph and replaying it, as servers do; timings then contain no Python overhead."""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM_RUNS = 3
"""Number of runs before recording. The first runs choose kernels and allocate memory, which must not be recorded."""


def record(call: Callable[[], object], stream: torch.cuda.Stream) -> Callable[[], object]:
    """Record a call as a CUDA graph and return a function that replays it on ``stream``.

    A replay only enqueues work, and writes to the same memory each time. It returns what the recorded call returned.

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
