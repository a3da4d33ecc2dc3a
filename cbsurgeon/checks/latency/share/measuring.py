"""Measuring own time: running both models in turns under their back end's profiler."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from cbsurgeon.checks.latency.factory import RuntimeFactory
from cbsurgeon.checks.latency.share import onnx_profile, torch_profile
from cbsurgeon.checks.latency.share.difference import differ, in_groups
from cbsurgeon.checks.latency.share.estimate import FEWEST_RUNS, estimate
from cbsurgeon.checks.latency.share.result import OwnTime
from cbsurgeon.checks.latency.share.trace import Trace
from cbsurgeon.checks.latency.share.turns import Profiled
from cbsurgeon.vocabulary import Progress

SECONDS = 6.0
"""Seconds of profiled runs: about 60 runs each of DeiT-S on two idle cores, enough for an accuracy of 0.02 %."""

Profile = Callable[[Sequence[RuntimeFactory], float], Profiled | str]
"""Runs A, B and a second A under a profiler for a number of seconds; returns a sentence if it cannot."""

PROFILES: dict[tuple[str, str], Profile] = {
    ("onnxruntime", "cpu"): onnx_profile.profile,
    ("eager", "cpu"): torch_profile.profile,
    ("program", "cpu"): torch_profile.profile,
    ("folded", "cpu"): torch_profile.profile,
    ("compile", "cpu"): torch_profile.profile,
    ("eager", "cuda"): torch_profile.profile,
    ("program", "cuda"): torch_profile.profile,
    ("folded", "cuda"): torch_profile.profile,
    ("compile", "cuda"): torch_profile.profile,
    ("onnxruntime", "cuda"): torch_profile.profile,
    ("onnxruntime-tensorrt", "cuda"): torch_profile.profile,
    ("tensorrt", "cuda"): torch_profile.profile,
}
"""Back end and device type → the function that profiles it. A new back end is one function and one line here."""


def own_time(
    a: RuntimeFactory, b: RuntimeFactory, *, seconds: float = SECONDS, progress: Progress | None = None
) -> OwnTime | str:
    """Measure the time of operators that only B executes; return a sentence if that is not possible.

    A is opened twice and must execute the same operators both times. Otherwise the back end's optimiser is not
    deterministic, and different operators of A and B prove nothing.

    Args:
        a, b: factories of the baseline and the candidate, with the same back end, batch and device.
        seconds: duration of profiled runs, without opening, warming up and reading the profiles.
        progress: called with a message at each step.

    Raises:
        CBSurgeonError: a model cannot be opened or run.
    """
    backend, device = a.spec.chosen, torch.device(a.device).type
    profile = PROFILES.get((backend, device))
    if profile is None:
        return f"there is no profiler for {backend} on {device}"
    start = time.perf_counter()
    if progress is not None:
        progress(f"operator times of A and B in turns, {seconds:.0f} s")
    found = profile((a, b, a), seconds)
    if isinstance(found, str):
        return found
    for name, trace in zip(("A", "B", "the second A"), found.traces, strict=True):
        if isinstance(trace, str):
            return f"{name}: {trace}"
    first, second, control = (trace for trace in found.traces if isinstance(trace, Trace))
    if differ(first.nodes, control.nodes):
        return "the baseline executes different operators when it is opened again"
    if min(first.runs, second.runs) < FEWEST_RUNS:
        return f"only {min(first.runs, second.runs)} runs fit into {seconds:.0f} s; {FEWEST_RUNS} are needed"
    new = [site for site in b.sites if site not in a.sites]
    second = replace(second, nodes=in_groups(second.nodes, differ(first.nodes, second.nodes).added, new))
    dropped = first.dropped + second.dropped
    notes = [f"{dropped} runs executed different operators and were left out"] if dropped else []
    if device == "cuda":
        notes.append(_with_gaps(first, second))
    return estimate(
        first, second, method=found.method, seconds=time.perf_counter() - start - found.opening, notes=notes
    )


def _with_gaps(a: Trace, b: Trace) -> str:
    """Compare the spans: gaps between kernels are in no kernel's time, and more kernels have more gaps."""
    first, second = float(np.median(a.spans)), float(np.median(b.spans))
    return (
        f"with the gaps between kernels, a run takes {first:.0f} µs in A and {second:.0f} µs in B "
        f"({100 * (second / first - 1):+.2f} %)"
    )
