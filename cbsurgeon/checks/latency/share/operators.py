"""Reading a trace down to the operators on the CPU.

Events in a trace are nested: a region compiled by Dynamo contains the call of a compiled graph, which contains its
kernels; ``aten::linear`` contains ``aten::addmm``. An operator is the outermost event that is not such a wrapper, with
the time of everything inside it. Python overhead between operators is not included; the end-to-end pairs measure it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cbsurgeon.checks.latency.share.events import LABEL, Event, kernel_name
from cbsurgeon.checks.latency.share.trace import Node, Run

METHOD = "torch.profiler (CPU operators)"

WRAPPER = re.compile(r"## Call CompiledFxGraph \S+ ##|Torch-Compiled Region: \S+")
"""Names of wrapper events; the hash and the number in them differ between models."""


def runs_of(events: Iterable[Event]) -> Iterator[tuple[str, Run]]:
    """Yield the model's name and the run, for each run in a trace."""
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
    dims = event.get("args", {}).get("Input Dims") or ()
    return Node(kernel_name(str(event["name"])), _shapes(dims))


def _shapes(dims: Sequence[Any]) -> str:
    """Format ``[[1, 197, 384], [384], []]`` as ``[1,197,384] [384]``; inputs that are not tensors are left out."""
    return " ".join(json.dumps(shape, separators=(",", ":")) for shape in dims if shape)
