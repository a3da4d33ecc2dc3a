"""Recording runs with ``torch.profiler``, as a list of trace events; runs are marked with a label.

The format is that of ``export_chrome_trace``: ``name``, ``cat`` (category), ``ts`` and ``dur`` (start and duration in
microseconds), ``tid`` (thread or stream) and ``args``.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

LABEL = "cbsurgeon run of "
"""Beginning of the name of the event that contains one run; the model's name follows."""

NUMBERED = re.compile(r"(?:graph_\d+_)?((?:cpp|triton)\w*?)_\d+")
"""Names of Inductor's kernels: ``graph_1_cpp_fused_gelu_view_3`` is the fourth kernel of the second graph."""

Event = Mapping[str, Any]


def labelled(call: Callable[[], object], synchronize: Callable[[], object], name: str) -> Callable[[], None]:
    """Return a function that makes one call, waits until it is done, and marks both as a run of the model."""

    def run() -> None:
        with torch.profiler.record_function(f"{LABEL}{name}"):
            call()
            synchronize()

    return run


def kernel_name(name: str) -> str:
    """Return the name of a kernel without the numbers that Inductor gives it, which differ between models."""
    numbered = NUMBERED.fullmatch(name)
    return numbered[1] if numbered else name


def recorded(calls: Sequence[Callable[[], None]], *, gpu: bool = False) -> list[Event]:
    """Run some calls under the profiler and return the events.

    Args:
        calls: made one after another.
        gpu: also record the kernels that run on a GPU, of every library in this process.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise Kineto writes to the terminal
    with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as folder:
        with _profiler(gpu=gpu) as made:
            for call in calls:
                call()
        path = Path(folder) / "trace.json"
        made.export_chrome_trace(str(path))
        events: list[Event] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        return events


def _profiler(*, gpu: bool) -> Any:
    """Return the profiler. On the CPU it is the one inside ``torch.profiler``: the latter imports the compiler when it
    first starts, which takes 3 s on an idle core."""
    if gpu:
        return torch.profiler.profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
    return torch.autograd.profiler.profile(record_shapes=True)
