"""Operator times of PyTorch's back ends, from ``torch.profiler``: eager, programs and ``torch.compile`` on the CPU.

Events in a trace are nested: a region compiled by Dynamo contains the call of a compiled graph, which contains its
kernels; ``aten::linear`` contains ``aten::addmm``. An operator is the outermost event that is not such a wrapper, with
the time of everything inside it. Python overhead between operators is not included; the end-to-end pairs measure it.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch

from cbsurgeon.checks.latency.factory import RuntimeFactory
from cbsurgeon.checks.latency.running import require_comparable
from cbsurgeon.checks.latency.share.estimate import FEWEST_RUNS
from cbsurgeon.checks.latency.share.trace import Node, Run, trace_of
from cbsurgeon.checks.latency.share.turns import WARM, Profiled, take_turns

LABEL = "cbsurgeon run of "
NAMES = ("A", "B", "A again")

WRAPPER = re.compile(r"## Call CompiledFxGraph \S+ ##|Torch-Compiled Region: \S+")
"""Names of wrapper events; the hash and the number in them differ between models."""

NUMBERED = re.compile(r"(?:graph_\d+_)?((?:cpp|triton)\w*?)_\d+")
"""Names of Inductor's kernels: ``graph_1_cpp_fused_gelu_view_3`` is the fourth kernel of the second graph."""

MOST_EVENTS = 50_000
"""Most events to record per model: each is half a kilobyte of JSON."""

METHOD = "torch.profiler (CPU operators)"
Event = Mapping[str, Any]


def profile(factories: Sequence[RuntimeFactory], seconds: float) -> Profiled | str:
    """Profile a second A once, then A and B in turns; see :mod:`cbsurgeon.checks.latency.share.measuring`."""
    start = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(_kernel_names(factories[0].spec.chosen))
        timed = [factory() for factory in factories]
        for one in timed:
            stack.callback(one.close)
        require_comparable(timed[0], timed[1])
        calls = [_labelled(one.call, one.synchronize, name) for one, name in zip(timed, NAMES, strict=True)]
        for call in calls * WARM:
            call()
        opening = time.perf_counter() - start  # what is compiled is compiled at the first call
        began = time.perf_counter()
        counted = [event for event in _recorded(calls[:2]) if event.get("ph") == "X"]
        each = (time.perf_counter() - began) / 2  # reading included, which is slow on a busy machine
        most = max(FEWEST_RUNS, min(MOST_EVENTS // max(1, len(counted) // 2), int(seconds / each)))

        def turns() -> None:
            calls[2]()
            take_turns(calls[:2], seconds, most)

        events = list(_recorded([turns]))
    runs: dict[str, list[Run]] = {name: [] for name in NAMES}
    for name, run in runs_of(events):
        runs[name].append(run)
    traces = [trace_of(runs[name]) for name in NAMES]
    return Profiled((traces[0], traces[1], traces[2]), METHOD, opening)


def runs_of(events: Iterable[Event]) -> Iterator[tuple[str, Run]]:
    """Yield the model's name and the run, for each run in a trace written by ``export_chrome_trace``."""
    spans = [event for event in events if event.get("ph") == "X" and event.get("cat") in ("cpu_op", "user_annotation")]
    spans.sort(key=lambda event: (float(event["ts"]), -float(event["dur"])))
    place = 0
    while place < len(spans):
        run, place = spans[place], place + 1
        if not str(run["name"]).startswith(LABEL):
            continue
        end = float(run["ts"]) + float(run["dur"])
        nodes, times, until = [], [], 0.0
        while place < len(spans) and float(spans[place]["ts"]) < end:
            event, place = spans[place], place + 1
            inside = float(event["ts"]) < until
            if inside or event.get("tid") != run.get("tid") or WRAPPER.fullmatch(str(event["name"])):
                continue
            until = float(event["ts"]) + float(event["dur"])
            nodes.append(_node(event))
            times.append(float(event["dur"]))
        yield str(run["name"]).removeprefix(LABEL), Run(tuple(nodes), tuple(times), float(run["dur"]))


def _node(event: Event) -> Node:
    name = str(event["name"])
    numbered = NUMBERED.fullmatch(name)
    dims = event.get("args", {}).get("Input Dims") or ()
    return Node(numbered[1] if numbered else name, _shapes(dims))


def _shapes(dims: Sequence[Any]) -> str:
    """Format ``[[1, 197, 384], [384], []]`` as ``[1,197,384] [384]``; inputs that are not tensors are left out."""
    return " ".join(json.dumps(shape, separators=(",", ":")) for shape in dims if shape)


def _labelled(call: Callable[[], object], synchronize: Callable[[], object], name: str) -> Callable[[], None]:
    def labelled() -> None:
        with torch.profiler.record_function(f"{LABEL}{name}"):
            call()
            synchronize()

    return labelled


def _recorded(calls: Sequence[Callable[[], None]]) -> list[Event]:
    """Run some calls under the profiler and return the events.

    The autograd profiler is what ``torch.profiler`` runs. The latter imports the compiler when it first starts, which
    takes 3 s on an idle core.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise Kineto writes to the terminal
    with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as folder:
        with torch.autograd.profiler.profile(record_shapes=True) as made:
            for call in calls:
                call()
        path = Path(folder) / "trace.json"
        made.export_chrome_trace(str(path))
        events: list[Event] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        return events


def _kernel_names(backend: str) -> AbstractContextManager[object]:
    """Return a context in which Inductor compiles kernels that report their names to the profiler."""
    if backend != "compile":
        return nullcontext()
    import torch._inductor.config as inductor

    patched: AbstractContextManager[object] = inductor.patch({"cpp.enable_kernel_profile": True})
    return patched
