"""The profile of one model: the operators of a run, in order, and their times in every run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]

MOSTLY = 0.75
"""Smallest fraction of runs that must have executed the same operators; the others are left out."""


@dataclass(frozen=True)
class Node:
    """One operator, or fused kernel, as the back end executes it.

    Attributes:
        op: its type or kernel name.
        inputs: dtypes and shapes of its inputs, as text; empty if the profiler does not report them.
        outputs: the same for its outputs.
        name: name of the node in the file; it may differ between two models.
        site: module path of the inserted operator it belongs to; empty for the model's own nodes, and if the profiler
            does not report it.
    """

    op: str
    inputs: str = ""
    outputs: str = ""
    name: str = field(default="", compare=False)
    site: str = field(default="", compare=False)


@dataclass(frozen=True)
class Trace:
    """Several runs of one model that executed the same operators.

    Attributes:
        nodes: the operators of a run, in order of execution.
        times: microseconds, ``[runs, nodes]``.
        spans: microseconds of whole runs, ``[runs]``; at least the sum over the nodes.
        dropped: number of runs that executed other operators and were left out.
    """

    nodes: tuple[Node, ...]
    times: Times = field(repr=False)
    spans: Times = field(repr=False)
    dropped: int = 0

    @property
    def runs(self) -> int:
        """Number of runs."""
        return len(self.times)


@dataclass(frozen=True)
class Run:
    """One run in a profile: its operators, their microseconds, and the microseconds of the whole run."""

    nodes: tuple[Node, ...]
    times: tuple[float, ...]
    span: float


def trace_of(runs: Sequence[Run]) -> Trace | str:
    """Combine runs to a trace; return a sentence if that is not possible."""
    if not runs or not any(run.nodes for run in runs):
        return "the profiler recorded no operators"
    usual, count = Counter(run.nodes for run in runs).most_common(1)[0]
    if count < MOSTLY * len(runs):
        return f"only {count} of {len(runs)} runs executed the same operators in the same order"
    kept = [run for run in runs if run.nodes == usual]
    first = kept[0].nodes  # node names are ignored when runs are compared
    times = np.array([run.times for run in kept], dtype=np.float64)
    return Trace(first, times, np.array([run.span for run in kept], dtype=np.float64), len(runs) - count)
