"""``bench``: two models or exported files against each other, in whatever runs them."""

from __future__ import annotations

import pickle
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from cbsurgeon.checks.latency.comparison import PROCESSES, Timed, compare_processes, compare_timers
from cbsurgeon.checks.latency.device import clock_of, timer_of
from cbsurgeon.checks.latency.result import Benchmark
from cbsurgeon.deploy import RuntimeSpec, stage
from cbsurgeon.deploy.artifact import Port
from cbsurgeon.deploy.runtimes import Runtime
from cbsurgeon.errors import UsageError
from cbsurgeon.models import Model
from cbsurgeon.vocabulary import ENGINE_SUFFIXES, Progress

Side = Model | str | Path

SHORTEST_FULL = 40.0
"""Seconds below which five processes would spend the budget on starting: such a run stays in one process."""

CUDA_SAMPLE_MS, CPU_SAMPLE_MS = 5.0, 20.0
"""Milliseconds a sample lasts at least: device timings are less disturbed than those of a shared processor."""


@dataclass(frozen=True)
class RuntimeFactory:
    """Opens a runtime and prepares one call on generated inputs; picklable where its target is.

    Attributes:
        spec: what to open.
        batch: samples per call.
        examples: integer inputs by name, whose values cannot be drawn at random.
    """

    spec: RuntimeSpec
    batch: int
    examples: tuple[tuple[str, Tensor], ...] = ()

    def __call__(self) -> Timed:
        """Open it.

        Raises:
            UsageError: its batch is fixed at another size (CB-BENCH-03).
        """
        runtime = self.spec.open()
        if runtime.only_batch not in (None, self.batch):
            runtime.close()
            raise UsageError(
                f"{runtime.name} takes batches of {runtime.only_batch} only",
                code="CB-BENCH-03",
                where=f"--batch {self.batch}",
                why="the batch is fixed in it",
                do=f"--batch {runtime.only_batch}, or export it with an open batch",
            )
        call = runtime.prepare(self.inputs(runtime))
        return Timed(call, runtime.synchronize, runtime.close, timer_of(runtime, call), clock_of(runtime))

    @property
    def device(self) -> str:
        """Where it computes."""
        return self.spec.device

    def inputs(self, runtime: Runtime) -> dict[str, Tensor]:
        """Inputs of the batch size; equal for every arm in this process, and the same memory where they are drawn."""
        given = dict(self.examples)
        return {
            port.name: _repeated(given[port.name], self.batch)
            if port.name in given
            else drawn(_shape(port, self.batch), port.dtype, place)
            for place, port in enumerate(runtime.inputs)
        }


def _shape(port: Port, batch: int) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) else batch for dim in port.dims)


def _repeated(example: Tensor, batch: int) -> Tensor:
    return example.index_select(0, torch.arange(batch) % example.shape[0])


@cache
def drawn(shape: tuple[int, ...], dtype: str, place: int) -> Tensor:
    """Normal values of a floating type; zeros of an integer type; ones (nothing masked) of a boolean one."""
    kind = getattr(torch, dtype)
    if not kind.is_floating_point:
        return torch.full(shape, kind is torch.bool, dtype=kind)
    return torch.randn(shape, generator=torch.Generator().manual_seed(place)).to(kind)


def bench(
    a: Side,
    b: Side,
    *,
    backend: str = "eager",
    batch: int = 1,
    budget: float = 60.0,
    claim: float = 0.01,
    processes: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    cuda_graph: bool | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Benchmark:
    """Time ``b`` against ``a`` in interleaved groups, with ``a`` against itself as control.

    Args:
        a, b: models, or paths of exported files.
        backend: as :func:`cbsurgeon.deploy.open_runtime`; models are exported first where it needs a file.
        batch: samples per call.
        budget: seconds to spend, starting processes included, exporting not.
        claim: the slow-down, as a fraction, that B is to be shown within.
        processes: fresh processes; five where the budget allows (from 40 s), else only this one.
        device, threads, trust: as :func:`cbsurgeon.deploy.open_runtime`; an engine is on the GPU whatever is asked.
        cuda_graph: replay recorded work on a CUDA device; ``None`` does.
        progress: told each step.

    Raises:
        CBSurgeonError: a side cannot be opened, its batch is fixed at another size (CB-BENCH-03), or a measuring
            process failed (CB-BENCH-02).
        KeyboardInterrupt: before there was enough for a result; later, the result so far is returned, marked partial.
    """
    device = device_for(a, b, device)
    on_gpu = torch.device(device).type == "cuda"
    replayed = on_gpu if cuda_graph is None else cuda_graph
    with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as place:
        factories = []
        for name, side in (("a", a), ("b", b)):
            spec = RuntimeSpec(side, backend, device, threads, cuda_graph=replayed, trust=trust)
            staged = _portable(stage(spec, Path(place), name=name, progress=progress), Path(place) / f"{name}.pt2")
            factories.append(RuntimeFactory(staged, batch, _integers(side)))
        sample = CUDA_SAMPLE_MS if on_gpu else CPU_SAMPLE_MS
        wanted = processes or (PROCESSES if budget >= SHORTEST_FULL else 1)
        options: dict[str, Any] = {
            "min_sample_ms": sample,
            "claim": claim,
            "budget": budget,
            "names": (_name(a), _name(b)),
            "progress": progress,
        }
        fresh = wanted > 1 and all(_travels(factory) for factory in factories)
        result = compare_processes(*factories, processes=wanted, **options) if fresh else _here(factories, options)
    if wanted > 1 and not fresh:
        note = "a module of this model cannot be sent to another process, so one process measured"
        result = replace(result, notes=(note, *result.notes))
    return replace(result, environment={**result.environment, "backend": backend, "batch": batch, "device": device})


def device_for(a: Side, b: Side, device: str) -> str:
    """The device asked for, or the GPU where one side is an engine, which runs nowhere else."""
    engines = any(not isinstance(side, Model) and Path(side).suffix.lower() in ENGINE_SUFFIXES for side in (a, b))
    return "cuda" if engines and torch.device(device).type != "cuda" else device


def _here(factories: list[RuntimeFactory], options: dict[str, Any]) -> Benchmark:
    """In this process: A, B, and A once more."""
    timed = [factory() for factory in (*factories, factories[0])]

    try:
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


def _name(side: Side) -> str:
    return side.provenance.reference if isinstance(side, Model) else Path(side).name
