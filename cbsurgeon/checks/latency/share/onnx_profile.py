"""Operator times of ONNX files, from ONNX Runtime's own profiler."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cbsurgeon.checks.latency.factory import RuntimeFactory
from cbsurgeon.checks.latency.share.estimate import FEWEST_RUNS
from cbsurgeon.checks.latency.share.trace import Node, Run, trace_of
from cbsurgeon.checks.latency.share.turns import WARM, Profiled, take_turns
from cbsurgeon.deploy.onnx import file as onnx_file
from cbsurgeon.deploy.onnx.metadata import module_path
from cbsurgeon.graph.occupants import ON_INPUT, ON_OUTPUT

SUFFIX = "_kernel_time"
CONTROL_FLOW = {"If", "Loop", "Scan"}
"""Operators whose time includes that of the operators inside them."""

MOST_EVENTS = 40_000
"""Most operator runs to record per model: ONNX Runtime writes a kilobyte of JSON for each."""

METHOD = "ONNX Runtime's profiler (whole microseconds)"


def profile(factories: Sequence[RuntimeFactory], seconds: float) -> Profiled | str:
    """Profile a second A once, then A and B in turns; see :data:`cbsurgeon.checks.latency.share.measuring.PROFILES`."""
    from cbsurgeon.deploy.runtimes.onnx_runtime import OnnxRuntime

    start = time.perf_counter()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cbsurgeon-")))
        runtimes, calls, sites = [], [], []
        for place, factory in enumerate(factories):
            spec, path = factory.spec, Path(str(factory.spec.target))
            runtime = OnnxRuntime(
                path,
                spec.device,
                threads=spec.threads,
                optimize=spec.optimize,
                profile=folder / f"profile-{place}",
            )
            stack.callback(runtime.close)
            runtimes.append(runtime)
            calls.append(factory.prepare(runtime))
            sites.append(sites_of(path))
        opening = time.perf_counter() - start
        calls[2]()  # of the second A, only its operators are needed
        profiles = {2: runtimes[2].end_profiling()}
        operators = max(len(onnx_file.load(Path(str(factory.spec.target))).graph.node) for factory in factories[:2])
        most = max(FEWEST_RUNS, MOST_EVENTS // max(operators, 1))
        for call in calls[:2] * WARM:
            call()
        take_turns(calls[:2], seconds, most)
        profiles |= {place: runtimes[place].end_profiling() for place in (0, 1)}
        skipped = (WARM, WARM, 0)
        traces = [trace_of(read(profiles[place], sites[place])[skipped[place] :]) for place in range(3)]
    return Profiled((traces[0], traces[1], traces[2]), METHOD, opening)


def sites_of(path: Path) -> dict[str, str]:
    """Return node name → module path of its inserted operator, for a file exported by cbsurgeon."""
    found = {}
    for node in onnx_file.load(path).graph.node:
        parts = module_path({item.key: item.value for item in node.metadata_props}).split(".")
        depth = next((depth for depth, part in enumerate(parts) if part in (ON_OUTPUT, ON_INPUT)), None)
        if depth is not None:
            found[node.name] = ".".join(parts[: depth + 1])
    return found


def runs_of(events: Iterable[Mapping[str, Any]], sites: Mapping[str, str]) -> Iterator[Run]:
    """Yield the runs in a profile.

    Args:
        events: entries of the file written by ``end_profiling``. Times are whole microseconds.
        sites: from :func:`sites_of`.
    """
    ordered = sorted((event for event in events if "dur" in event), key=lambda event: int(event["ts"]))
    kernels = [event for event in ordered if event.get("cat") == "Node" and str(event["name"]).endswith(SUFFIX)]
    place = 0
    for run in (event for event in ordered if event.get("name") == "model_run"):
        start, end = int(run["ts"]), int(run["ts"]) + int(run["dur"])
        inside: list[Mapping[str, Any]] = []
        while place < len(kernels) and int(kernels[place]["ts"]) <= end:
            if int(kernels[place]["ts"]) >= start:
                inside.append(kernels[place])
            place += 1
        top = list(_outermost(inside))
        nodes = tuple(_node(event, sites) for event in top)
        yield Run(nodes, tuple(float(event["dur"]) for event in top), float(run["dur"]))


def read(path: Path, sites: Mapping[str, str]) -> list[Run]:
    """Return the runs in a profile file."""
    return list(runs_of(json.loads(path.read_text(encoding="utf-8")), sites))


def _outermost(events: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the events that are not inside a control-flow operator."""
    until = -1
    for event in events:
        if int(event["ts"]) < until:
            continue
        if event["args"]["op_name"] in CONTROL_FLOW:
            until = int(event["ts"]) + int(event["dur"])
        yield event


def _node(event: Mapping[str, Any], sites: Mapping[str, str]) -> Node:
    args, name = event["args"], str(event["name"]).removesuffix(SUFFIX)
    inputs, outputs = (_shapes(args.get(key, ())) for key in ("input_type_shape", "output_type_shape"))
    return Node(str(args["op_name"]), inputs, outputs, name, sites.get(name, ""))


def _shapes(entries: Iterable[Mapping[str, Any]]) -> str:
    """Format ``[{"float": [1, 197, 384]}]`` as ``float[1,197,384]``."""
    return " ".join(
        f"{dtype}[{','.join(str(size) for size in shape)}]" for entry in entries for dtype, shape in entry.items()
    )
