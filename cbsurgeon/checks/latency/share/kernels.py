"""Reading a trace down to the kernels on an NVIDIA GPU, for every back end.

CUPTI, which ``torch.profiler`` uses, records the kernels of all libraries in the process, including ONNX Runtime and
TensorRT. The event of a kernel has the correlation number of the call that launched it. All kernels of a replayed CUDA
graph have the number of the replay. A kernel belongs to the run in which it was launched.

The time of a kernel is measured by the GPU. Gaps between kernels are not part of it; they are part of a run's span,
from the start of its first kernel to the end of its last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cbsurgeon.checks.latency.share.events import LABEL, Event, kernel_name
from cbsurgeon.checks.latency.share.trace import Node, Run

METHOD = "torch.profiler (GPU kernels)"

ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
"""Categories of events that the GPU executes."""

LAUNCHES = ("cuda_runtime", "cuda_driver")
"""Categories of calls that launch them."""


def runs_of(events: Iterable[Event]) -> Iterator[tuple[str, Run]]:
    """Yield the model's name and the run, for each run in a trace; kernels are in order of their start."""
    spans: list[Event] = []
    launched: dict[Any, float] = {}
    kernels: list[Event] = []
    for event in events:
        if event.get("ph") != "X":
            continue
        category = event.get("cat")
        if category == "user_annotation" and str(event["name"]).startswith(LABEL):
            spans.append(event)
        elif category in LAUNCHES:
            launched[_correlation(event)] = float(event["ts"])
        elif category in ON_GPU:
            kernels.append(event)
    spans.sort(key=lambda event: float(event["ts"]))
    inside: list[list[Event]] = [[] for _ in spans]
    place = 0
    for moment, kernel in sorted(
        ((launched[_correlation(one)], one) for one in kernels if _correlation(one) in launched),
        key=lambda pair: pair[0],
    ):
        while place < len(spans) and _end(spans[place]) <= moment:
            place += 1
        if place < len(spans) and float(spans[place]["ts"]) <= moment:
            inside[place].append(kernel)
    for span, found in zip(spans, inside, strict=True):
        found.sort(key=lambda event: float(event["ts"]))
        length = max(map(_end, found)) - float(found[0]["ts"]) if found else 0.0
        times = tuple(float(kernel["dur"]) for kernel in found)
        yield str(span["name"]).removeprefix(LABEL), Run(tuple(map(_node, found)), times, length)


def _correlation(event: Event) -> Any:
    return event.get("args", {}).get("correlation")


def _end(event: Event) -> float:
    return float(event["ts"]) + float(event["dur"])


def _node(event: Event) -> Node:
    """Return the kernel with its grid and block, or the copy with its size: they tell kernels of other shapes apart."""
    args = event.get("args", {})
    if "grid" in args:
        size = f"grid {_dims(args['grid'])} block {_dims(args.get('block', ()))}"
    else:
        size = f"{args['bytes']} bytes" if "bytes" in args else ""
    return Node(kernel_name(str(event["name"])), size)


def _dims(values: Iterable[Any]) -> str:
    return "x".join(str(value) for value in values)
