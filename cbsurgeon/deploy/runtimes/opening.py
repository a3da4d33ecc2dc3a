"""Choosing and opening a runtime for a model, a program or a file."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cbsurgeon.deploy.folding.folds import fold
from cbsurgeon.deploy.runtimes.runtime import Runtime, require_cuda, require_device
from cbsurgeon.errors import UsageError, did_you_mean
from cbsurgeon.graph import Program
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from cbsurgeon.vocabulary import BACKENDS, ENGINE_SUFFIXES, Progress

Target = Model | Program | str | Path

_NEEDS_ONNX = ("onnxruntime", "onnxruntime-tensorrt")


@dataclass(frozen=True)
class RuntimeSpec:
    """How to open a runtime, as a value that another process can be sent.

    Attributes:
        target: a model, a program, or a file (``.onnx``, ``.engine``, ``.pt2``).
        backend: one of :data:`BACKENDS`; ``None`` takes what runs the target as it is.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        threads: threads within one operator; ``None`` leaves it alone.
        optimize: let ONNX Runtime rewrite the graph.
        cuda_graph: record and replay what :meth:`Runtime.prepare` gives, on a CUDA device.
        trust: the user vouches for files that can run code.
        fold: fold operators when a model has to be exported first.
    """

    target: Target
    backend: str | None = None
    device: str = "cpu"
    threads: int | None = None
    optimize: bool = True
    cuda_graph: bool = False
    trust: bool = False
    fold: bool = True

    def open(self) -> Runtime:
        """Open it; see :func:`open_runtime`."""
        return _open(self)

    @property
    def chosen(self) -> str:
        """The backend, with the default filled in."""
        return self.backend or _default_backend(self.target)


def open_runtime(
    target: Target,
    backend: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    *,
    optimize: bool = True,
    cuda_graph: bool = False,
    trust: bool = False,
    fold: bool = True,
) -> Runtime:
    """Open what computes a target; use it in a ``with`` statement.

    Args:
        target: a model, a program, or a file.
        backend: ``eager``, ``program``, ``folded`` (the program after :func:`cbsurgeon.deploy.fold`),
            ``compile``, ``onnxruntime``, ``onnxruntime-tensorrt`` or ``tensorrt``; ``None`` takes what runs the target
            as it is.
        device: where to compute.
        threads: threads within one operator.
        optimize, cuda_graph, trust, fold: as in :class:`RuntimeSpec`.

    Raises:
        UsageError: an unknown backend, or one that cannot run this target (CB-RUN-09, CB-RUN-10); no GPU (CB-RUN-03).
        CBSurgeonError: as the chosen runtime.
    """
    return _open(RuntimeSpec(target, backend, device, threads, optimize, cuda_graph, trust, fold))


def stage(spec: RuntimeSpec, folder: Path, *, name: str = "model", progress: Progress | None = None) -> RuntimeSpec:
    """Do once what opening would do each time: export or build the file that the backend needs.

    Args:
        spec: what to open later, perhaps in several processes.
        folder: where the file goes.
        name: its stem.
        progress: told each step.

    Returns:
        A specification whose target opens as it is.
    """
    backend = spec.chosen
    if isinstance(spec.target, (str, Path)) or backend not in (*_NEEDS_ONNX, "tensorrt"):
        return spec
    model, program = _model_and_program(spec.target)
    if backend == "tensorrt":
        from cbsurgeon.deploy.tensorrt.building import export_engine

        made = export_engine(model, folder / f"{name}.engine", fold=spec.fold, program=program, progress=progress)
    else:
        from cbsurgeon.deploy.onnx.exporting import export_onnx

        made = export_onnx(model, folder / f"{name}.onnx", fold=spec.fold, program=program, progress=progress)
    return replace(spec, target=made.path)


def _model_and_program(target: Model | Program) -> tuple[Model, Program | None]:
    if isinstance(target, Program):
        return Model(None, program=target.exported), target
    return target, None


def _default_backend(target: Target) -> str:
    if isinstance(target, Program):
        return "program"
    if isinstance(target, Model):
        return "eager" if target.module is not None else "program"
    suffix = Path(target).suffix.lower()
    if suffix == ".onnx":
        return "onnxruntime"
    return "tensorrt" if suffix in ENGINE_SUFFIXES else "program"


def _open(spec: RuntimeSpec) -> Runtime:
    backend = spec.chosen
    if backend not in BACKENDS:
        raise UsageError(
            f"unknown backend {backend!r}",
            code="CB-RUN-09",
            why=f"the backends are {', '.join(BACKENDS)}",
            do=did_you_mean(backend, BACKENDS, "--backend ") or "leave it out to run each side as it is",
        )
    require_device(spec.device)
    if torch.device(spec.device).type == "cuda":
        require_cuda(f"running on {spec.device}")
    if isinstance(spec.target, (str, Path)):
        return _open_file(spec, Path(spec.target), backend)
    if backend in (*_NEEDS_ONNX, "tensorrt"):
        return _open_staged(spec)
    return _open_torch(spec, spec.target, backend)


def _open_file(spec: RuntimeSpec, path: Path, backend: str) -> Runtime:
    suffix = path.suffix.lower()
    if suffix == ".onnx" and backend in _NEEDS_ONNX:
        from cbsurgeon.deploy.runtimes.onnx_runtime import OnnxRuntime

        return OnnxRuntime(
            path,
            spec.device,
            backend=backend,
            threads=spec.threads,
            optimize=spec.optimize,
            cuda_graph=spec.cuda_graph,
        )
    if suffix in ENGINE_SUFFIXES and backend == "tensorrt":
        from cbsurgeon.deploy.runtimes.tensorrt_runtime import TensorRTRuntime

        device = spec.device if spec.device.startswith("cuda") else "cuda"
        return TensorRTRuntime(path, device, trust=spec.trust, cuda_graph=spec.cuda_graph)
    if suffix in (".onnx", *ENGINE_SUFFIXES):
        raise UsageError(
            f"the {backend} backend cannot run a {suffix} file",
            code="CB-RUN-10",
            where=str(path),
            do="leave the backend out",
        )
    from cbsurgeon.models import load

    return _open(replace(spec, target=load(str(path), trust=spec.trust)))


def _open_staged(spec: RuntimeSpec) -> Runtime:
    """Export to a folder that lives as long as the runtime."""
    folder = tempfile.TemporaryDirectory(prefix="cbsurgeon-")
    try:
        runtime = _open(stage(spec, Path(folder.name)))
    except BaseException:
        folder.cleanup()
        raise
    return runtime.on_close(folder.cleanup)


def _open_torch(spec: RuntimeSpec, target: Any, backend: str) -> Runtime:
    from cbsurgeon.deploy.runtimes.torch_runtimes import CompiledRuntime, EagerRuntime, ProgramRuntime, TorchRuntime

    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    if isinstance(target, Model) and target.module is not None and backend in ("eager", "compile"):
        opened: TorchRuntime = (EagerRuntime if backend == "eager" else CompiledRuntime)(target, spec.device)
        opened.cuda_graph = spec.cuda_graph
        return opened
    if backend == "eager":
        raise UsageError(
            "an exported program has no eager form",
            code="CB-RUN-10",
            do="use the program backend",
        )
    name = target.provenance.reference if isinstance(target, Model) else "program"
    program = capture(target) if isinstance(target, Model) else target
    if backend == "folded":
        program, _ = fold(program, plainly=True)
    opened = ProgramRuntime(program, name, spec.device, backend=backend)
    opened.cuda_graph = spec.cuda_graph
    return opened
