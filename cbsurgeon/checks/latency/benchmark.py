"""``bench``: two models or exported files against each other, in whatever runs them."""

from __future__ import annotations

import pickle
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from cbsurgeon.checks.latency.comparison import PROCESSES, compare_processes, compare_timers
from cbsurgeon.checks.latency.factory import RuntimeFactory
from cbsurgeon.checks.latency.result import Benchmark
from cbsurgeon.checks.latency.running import distance, require_comparable
from cbsurgeon.checks.latency.settling import settle
from cbsurgeon.checks.latency.share.measuring import own_time
from cbsurgeon.deploy import RuntimeSpec, stage
from cbsurgeon.deploy.runtimes.runtime import require_device
from cbsurgeon.models import Model
from cbsurgeon.options import BenchOptions, documented, resolve
from cbsurgeon.vocabulary import ENGINE_SUFFIXES, Progress

Side = Model | str | Path

SHORTEST_FULL = 40.0
"""Seconds below which five processes would spend the budget on starting: such a run stays in one process."""

OWN_PART, OWN_MOST = 0.4, 10.0
"""Part of the budget that own time gets, and the seconds after which more of it adds nothing."""

OWN_READING = 0.6
"""Part of own time's seconds that profiled runs get; the rest is for opening the models and reading the profiles."""

CUDA_SAMPLE_MS, CPU_SAMPLE_MS = 5.0, 20.0
"""Milliseconds a sample lasts at least: device timings are less disturbed than those of a shared processor."""


@documented(BenchOptions)
def bench(
    a: Side,
    b: Side,
    how: BenchOptions | None = None,
    /,
    *,
    progress: Progress | None = None,
    **keywords: Any,
) -> Benchmark:
    """Whether ``b`` takes longer than ``a``: by the operators they do not share, and end to end.

    The back end's profiler times what ``b`` executes beyond ``a``, which decides the verdict. Interleaved pairs of
    whole runs, with ``a`` against itself as control, confirm or contradict it.

    Args:
        a, b: models, or paths of exported files.
        how: how to time them; or its fields as keywords. Models are exported first where the back end needs a file.
            Without ``processes`` there are five where the budget allows (from 40 s), else only this one.
        progress: told each step.

    Raises:
        CBSurgeonError: a side cannot be opened, its batch is fixed at another size (CB-BENCH-03), a measuring process
            failed (CB-BENCH-02), what would be timed as ``b`` computes what ``a`` does although the eager models differ
            (CB-BENCH-04), or the two do not run in one mode (CB-BENCH-05).
        KeyboardInterrupt: before there was enough for a result; later, the result so far is returned, marked partial.
    """
    how = resolve(BenchOptions, how, keywords, "bench")
    backend = how.on or running_both(a, b)
    device = device_for(a, b, how.device)
    on_gpu = torch.device(device).type == "cuda"
    replayed = on_gpu if how.cuda_graph is None else how.cuda_graph
    with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as place:
        factories = []
        for name, side in (("a", a), ("b", b)):
            spec = RuntimeSpec(side, backend, device, how.threads, cuda_graph=replayed, trust=how.trust)
            staged = _portable(stage(spec, Path(place), name=name, progress=progress), Path(place) / f"{name}.pt2")
            factories.append(RuntimeFactory(staged, how.batch, _integers(side), _sites(side)))
        factories[1] = replace(factories[1], expected=_apart(a, b, factories[0]))
        sample = CUDA_SAMPLE_MS if on_gpu else CPU_SAMPLE_MS
        start = time.perf_counter()
        seconds = OWN_READING * min(OWN_PART * how.budget, OWN_MOST)
        own = own_time(factories[0], factories[1], seconds=seconds, progress=progress)
        left = max(how.budget - (time.perf_counter() - start), (1 - OWN_PART) * how.budget)
        wanted = how.processes or (PROCESSES if how.budget >= SHORTEST_FULL else 1)
        options: dict[str, Any] = {
            "min_sample_ms": sample,
            "claim": how.claim,
            "budget": left,
            "names": (_name(a), _name(b)),
            "progress": progress,
        }
        fresh = wanted > 1 and all(_travels(factory) for factory in factories)
        result = compare_processes(*factories, processes=wanted, **options) if fresh else _here(factories, options)
    if wanted > 1 and not fresh:
        note = "a module of this model cannot be sent to another process, so one process measured"
        result = replace(result, notes=(note, *result.notes))
    stamp = {**result.environment, "backend": backend, "batch": how.batch, "device": device}
    return settle(replace(result, environment=stamp), own)


def running_both(a: Side, b: Side) -> str:
    """The back end that runs both sides: what an exported file needs, else PyTorch."""
    suffixes = {Path(side).suffix.lower() for side in (a, b) if not isinstance(side, Model)}
    if suffixes & set(ENGINE_SUFFIXES):
        return "tensorrt"
    if ".onnx" in suffixes:
        return "onnxruntime"
    modules = all(isinstance(side, Model) and side.module is not None for side in (a, b))
    return "eager" if modules else "program"


def device_for(a: Side, b: Side, device: str) -> str:
    """The device asked for, or the GPU where one side is an engine, which runs nowhere else."""
    require_device(device)
    engines = any(not isinstance(side, Model) and Path(side).suffix.lower() in ENGINE_SUFFIXES for side in (a, b))
    return "cuda" if engines and torch.device(device).type != "cuda" else device


def _here(factories: list[RuntimeFactory], options: dict[str, Any]) -> Benchmark:
    """In this process: A, B, and A once more."""
    timed = [factory() for factory in (*factories, factories[0])]
    try:
        require_comparable(timed[0], timed[1])
        result = compare_timers([item.timing() for item in timed], **options)
        return replace(result, environment={**result.environment, "clock": timed[0].clock})
    finally:
        for item in timed:
            item.close()


def _portable(spec: RuntimeSpec, path: Path) -> RuntimeSpec:
    """A program does not pickle: it travels as a file of our own."""
    target = spec.target
    if not isinstance(target, Model) or target.module is not None or target.program is None:
        return spec
    torch.export.save(target.program, path)
    return replace(spec, target=path, trust=True)


def _travels(factory: RuntimeFactory) -> bool:
    """Whether a fresh process can rebuild what this opens: it pickles, and no class of it lives in the main script."""
    target = factory.spec.target
    module = target.module if isinstance(target, Model) else None
    if module is not None and any(type(part).__module__ == "__main__" for part in module.modules()):
        return False
    try:
        pickle.dumps(factory)
    except (pickle.PicklingError, AttributeError, TypeError, NotImplementedError):
        return False
    return True


def _integers(side: Side) -> tuple[tuple[str, Tensor], ...]:
    """Integer and boolean example inputs of a model by keyword; floating ones are drawn."""
    if not isinstance(side, Model):
        return ()
    named = pytree.tree_leaves(dict(side.example_kwargs)), list(side.example_kwargs)
    return tuple(
        (name, leaf)
        for leaf, name in zip(*named, strict=False)
        if isinstance(leaf, Tensor) and not leaf.is_floating_point() and leaf.dim()
    )


def _apart(a: Side, b: Side, factory: RuntimeFactory) -> float | None:
    """How far the outputs of two modules are apart, run eagerly on the inputs that are timed; ``None`` for files."""
    outputs = []
    for side in (a, b):
        if not isinstance(side, Model) or side.module is None:
            return None
        timed = replace(factory, spec=RuntimeSpec(side, "eager"))()
        outputs.append(timed.call())
        timed.close()
    return distance(*outputs)


def _sites(side: Side) -> tuple[str, ...]:
    """Where a model says that operators were inserted."""
    recipes = side.recipes if isinstance(side, Model) else ()
    active = [site for recipe in recipes for site in recipe["sites"] if site.get("enabled", True)]
    return tuple(str(site["path"] or site["index"]) for site in active)


def _name(side: Side) -> str:
    return side.provenance.reference if isinstance(side, Model) else Path(side).name
