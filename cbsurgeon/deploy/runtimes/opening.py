"""Choosing and opening a runtime for a model, a program or a file."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from cbsurgeon.deploy.formats import export
from cbsurgeon.deploy.runtimes.registry import runtime_class
from cbsurgeon.deploy.runtimes.runtime import Runtime, require_cuda, require_device
from cbsurgeon.deploy.runtimes.spec import RuntimeSpec, Target
from cbsurgeon.errors import UsageError
from cbsurgeon.graph import Program
from cbsurgeon.models import load
from cbsurgeon.models.model import Model
from cbsurgeon.vocabulary import ENGINE_SUFFIXES, Progress


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
    """Open a runtime for a model, a program or a file; use it in a ``with`` statement.

    Args:
        target: a model, a program, or a file.
        backend: ``eager``, ``program``, ``folded`` (the program after :func:`cbsurgeon.deploy.fold`),
            ``compile``, ``onnxruntime``, ``onnxruntime-tensorrt`` or ``tensorrt``; ``None`` chooses the one that runs
            the target without conversion.
        device: where to compute.
        threads: threads within one operator.
        optimize, cuda_graph, trust, fold: as in :class:`RuntimeSpec`.

    Raises:
        UsageError: an unknown back end, or one that cannot run this target (CB-RUN-09, CB-RUN-10); no GPU (CB-RUN-03).
        CBSurgeonError: any error of the chosen runtime.
    """
    return open_spec(RuntimeSpec(target, backend, device, threads, optimize, cuda_graph, trust, fold))


def open_spec(spec: RuntimeSpec) -> Runtime:
    """Open the runtime of a :class:`RuntimeSpec`, as :func:`open_runtime` does."""
    kind = runtime_class(spec.chosen)
    require_device(spec.device)
    if torch.device(spec.device).type == "cuda":
        require_cuda(f"running on {spec.device}")
    if not isinstance(spec.target, (str, Path)):
        return _open_staged(spec) if kind.suffixes else kind.opened(spec)
    suffix = Path(spec.target).suffix.lower()
    if suffix in kind.suffixes:
        return kind.opened(spec)
    if suffix in (".onnx", *ENGINE_SUFFIXES):
        raise UsageError(
            f"the back end {spec.chosen} cannot run a {suffix} file",
            code="CB-RUN-10",
            where=str(spec.target),
            why=f"it runs {' and '.join(kind.suffixes) or 'models and programs'}",
            do="leave the back end out",
        )
    return open_spec(replace(spec, target=load(str(spec.target), trust=spec.trust)))


def stage(spec: RuntimeSpec, folder: Path, *, name: str = "model", progress: Progress | None = None) -> RuntimeSpec:
    """Export or build the file that the back end needs, once, so that opening does not repeat it.

    Args:
        spec: what to open later, perhaps in several processes.
        folder: the folder for the file.
        name: its name without suffix.
        progress: called with a message at each step.

    Returns:
        The specification with that file as its target.
    """
    suffixes = runtime_class(spec.chosen).suffixes
    if isinstance(spec.target, (str, Path)) or not suffixes:
        return spec
    model, program = _model_and_program(spec.target)
    made = export(model, folder / f"{name}{suffixes[0]}", fold=spec.fold, program=program, progress=progress)
    return replace(spec, target=made.path)


def _model_and_program(target: Model | Program) -> tuple[Model, Program | None]:
    if isinstance(target, Program):
        return Model(None, program=target.exported), target
    return target, None


def _open_staged(spec: RuntimeSpec) -> Runtime:
    """Export to a temporary folder that is deleted when the runtime is closed."""
    folder = tempfile.TemporaryDirectory(prefix="cbsurgeon-")
    try:
        runtime = open_spec(stage(spec, Path(folder.name)))
    except BaseException:
        folder.cleanup()
        raise
    return runtime.on_close(folder.cleanup)
