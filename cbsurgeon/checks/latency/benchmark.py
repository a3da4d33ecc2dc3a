"""``bench``: comparing the latency of two models or exported files on one back end."""

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

from cbsurgeon.checks import memory
from cbsurgeon.checks.latency.comparison import PROCESSES, compare_processes, compare_timers
from cbsurgeon.checks.latency.factory import RuntimeFactory
from cbsurgeon.checks.latency.result import Benchmark
from cbsurgeon.checks.latency.running import distance, require_comparable
from cbsurgeon.checks.latency.settling import settle
from cbsurgeon.checks.latency.share.measuring import own_time
from cbsurgeon.checks.latency.share.result import OwnTime
from cbsurgeon.deploy import RuntimeSpec, stage
from cbsurgeon.deploy.runtimes.runtime import require_device
from cbsurgeon.models import Model
from cbsurgeon.options import BenchOptions, documented, resolve
from cbsurgeon.vocabulary import ENGINE_SUFFIXES, Progress

Side = Model | str | Path

SHORTEST_FULL = 40.0
"""Shortest budget in seconds for several processes: with less, starting them would take most of it."""

OWN_PART, OWN_MOST = 0.6, 10.0
"""Largest fraction of the budget, and most seconds, for measuring own time (see ``share``)."""

OWN_READING = 0.6
"""Fraction of those seconds for profiled runs; the rest is for opening the models and reading the profiles."""

CUDA_SAMPLE_MS, CPU_SAMPLE_MS = 5.0, 20.0
"""Shortest sample in milliseconds; GPU timings are disturbed less than those of a shared processor."""


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
    """Measure whether ``b`` is slower than ``a``: by the operators they do not share, and end to end.

    The back end's profiler times the operators that only ``b`` executes. This decides the verdict. Interleaved pairs of
    whole runs confirm or contradict it; ``a`` is also timed against itself, which shows the noise of the machine.

    Args:
        a, b: models, or paths of exported files.
        how: how to time them; or its fields as keywords. Models are exported first if the back end needs a file.
            By default there are five processes if the budget is at least 40 s, else only this one.
        progress: called with a message at each step.

    Raises:
        CBSurgeonError: a model cannot be opened, its batch is fixed to another size (CB-BENCH-03), a measuring process
            failed (CB-BENCH-02), ``b`` would be timed with outputs equal to ``a``'s although the eager models differ
            (CB-BENCH-04), or the two do not run in the same mode (CB-BENCH-05).
        KeyboardInterrupt: interrupted before there was a result; later, the result so far is returned, marked partial.
    """
    how = resolve(BenchOptions, how, keywords, "bench")
    backend = how.on or running_both(a, b)
    device = device_for(a, b, how.device)
    on_gpu = torch.device(device).type == "cuda"
    replayed = on_gpu if how.cuda_graph is None else how.cuda_graph
    if not on_gpu:
        memory.require((a, b), how.batch, limit=how.max_memory, where=f"batch size {how.batch}")
    with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as folder:
        factories = []
        for name, side in (("a", a), ("b", b)):
            spec = RuntimeSpec(side, backend, device, how.threads, cuda_graph=replayed, trust=how.trust)
            staged = _portable(stage(spec, Path(folder), name=name, progress=progress), Path(folder) / f"{name}.pt2")
            factories.append(RuntimeFactory(staged, how.batch, _integers(side), _sites(side)))
        factories[1] = replace(factories[1], expected=_eager_distance(a, b, factories[0]))
        sample = CUDA_SAMPLE_MS if on_gpu else CPU_SAMPLE_MS
        start = time.perf_counter()
        seconds = OWN_READING * min(OWN_PART * how.budget, OWN_MOST)
        own = own_time(factories[0], factories[1], seconds=seconds, progress=progress)
        left = how.budget - _spent(own, time.perf_counter() - start, how.budget)
        wanted = how.processes or (PROCESSES if how.budget >= SHORTEST_FULL else 1)
        options: dict[str, Any] = {
            "min_sample_ms": sample,
            "claim": how.claim,
            "budget": left,
            "names": (_name(a), _name(b)),
            "progress": progress,
        }
        fresh = wanted > 1 and all(_opens_in_another_process(factory) for factory in factories)
        if fresh:
            result = compare_processes(*factories, processes=wanted, **options)
        else:
            result = _in_this_process(factories, options)
    if wanted > 1 and not fresh:
        note = "measured in one process, because a module of this model cannot be pickled for another one"
        result = replace(result, notes=(note, *result.notes))
    stamp = {**result.environment, "backend": backend, "batch": how.batch, "device": device}
    return settle(replace(result, environment=stamp), own)


def _spent(own: OwnTime | str, elapsed: float, budget: float) -> float:
    """Return the seconds of the budget that own time took, without opening and compiling the models.

    If own time could not be measured, the duration of opening is unknown. In this case, at most the part of the budget
    that is reserved for own time counts.
    """
    return min(own.seconds, budget) if isinstance(own, OwnTime) else min(elapsed, OWN_PART * budget)


def running_both(a: Side, b: Side) -> str:
    """Return the back end that runs both models: the one an exported file needs, else PyTorch."""
    suffixes = {Path(side).suffix.lower() for side in (a, b) if not isinstance(side, Model)}
    if suffixes & set(ENGINE_SUFFIXES):
        return "tensorrt"
    if ".onnx" in suffixes:
        return "onnxruntime"
    modules = all(isinstance(side, Model) and side.module is not None for side in (a, b))
    return "eager" if modules else "program"


def device_for(a: Side, b: Side, device: str) -> str:
    """Return the requested device; ``cuda`` if one of the two is an engine, which only runs there."""
    require_device(device)
    engines = any(not isinstance(side, Model) and Path(side).suffix.lower() in ENGINE_SUFFIXES for side in (a, b))
    return "cuda" if engines and torch.device(device).type != "cuda" else device


def _in_this_process(factories: list[RuntimeFactory], options: dict[str, Any]) -> Benchmark:
    """Measure in this process: A, B, and A built a second time."""
    timed = [factory() for factory in (*factories, factories[0])]
    try:
        require_comparable(timed[0], timed[1])
        result = compare_timers([item.timing() for item in timed], **options)
        return replace(result, environment={**result.environment, "clock": timed[0].clock})
    finally:
        for item in timed:
            item.close()


def _portable(spec: RuntimeSpec, path: Path) -> RuntimeSpec:
    """Save an exported program, which cannot be pickled, to a file for other processes."""
    target = spec.target
    if not isinstance(target, Model) or target.module is not None or target.program is None:
        return spec
    torch.export.save(target.program, path)
    return replace(spec, target=path, trust=True)


def _opens_in_another_process(factory: RuntimeFactory) -> bool:
    """Return whether another process can open this: it pickles, and no module's class is defined in ``__main__``."""
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
    """Return a model's integer and boolean keyword inputs; floating ones are drawn at random later."""
    if not isinstance(side, Model):
        return ()
    named = pytree.tree_leaves(dict(side.example_kwargs)), list(side.example_kwargs)
    return tuple(
        (name, leaf)
        for leaf, name in zip(*named, strict=False)
        if isinstance(leaf, Tensor) and not leaf.is_floating_point() and leaf.dim()
    )


def _eager_distance(a: Side, b: Side, factory: RuntimeFactory) -> float | None:
    """Return the distance of two eager modules' outputs on the inputs that are timed; ``None`` for files."""
    outputs = []
    for side in (a, b):
        if not isinstance(side, Model) or side.module is None:
            return None
        timed = replace(factory, spec=RuntimeSpec(side, "eager"))()
        outputs.append(timed.call())
        timed.close()
    return distance(*outputs)


def _sites(side: Side) -> tuple[str, ...]:
    """Return the sites at which a model's recipes have operators."""
    recipes = side.recipes if isinstance(side, Model) else ()
    active = [site for recipe in recipes for site in recipe["sites"] if site.get("enabled", True)]
    return tuple(str(site["path"] or site["index"]) for site in active)


def _name(side: Side) -> str:
    return side.provenance.reference if isinstance(side, Model) else Path(side).name
