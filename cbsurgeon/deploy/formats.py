"""One entry for every exported format, chosen by the file's suffix."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from cbsurgeon.deploy.artifact import Export, Port
from cbsurgeon.deploy.casting import DTYPES, cast
from cbsurgeon.deploy.clock import Clock, Progress
from cbsurgeon.deploy.onnx.exporting import DEFAULT_OPSET, export_onnx, floating_type
from cbsurgeon.deploy.onnx.file import sha256
from cbsurgeon.deploy.runtimes.opening import ENGINE_SUFFIXES
from cbsurgeon.deploy.tensorrt.building import DEFAULT_BATCH, Batch, BuildOptions, export_engine
from cbsurgeon.errors import UsageError
from cbsurgeon.graph import Program
from cbsurgeon.graph.capture import capture
from cbsurgeon.models import save
from cbsurgeon.models.files import atomic
from cbsurgeon.models.model import Model
from cbsurgeon.version import __version__

SUFFIXES = (".onnx", *ENGINE_SUFFIXES, ".pt2")


def export(
    model: Model,
    path: str | Path,
    *,
    opset: int = DEFAULT_OPSET,
    dtype: str | None = None,
    fold: bool = True,
    batch: int | Batch = DEFAULT_BATCH,
    options: BuildOptions | None = None,
    external_data: bool | None = None,
    force: bool = False,
    program: Program | None = None,
    progress: Progress | None = None,
) -> Export:
    """Write a model as ``.onnx``, ``.engine`` (also ``.plan``, ``.trt``) or ``.pt2``.

    A ``.pt2`` file is a model to work on, so nothing is folded into its weights and its batch stays open; ``opset``
    does not concern it.

    Args:
        model: what to export, in evaluation mode.
        path: the file; its suffix chooses the format.
        opset, external_data: see :func:`cbsurgeon.deploy.onnx.exporting.export_onnx`.
        dtype: ``float16``, ``bfloat16`` or ``None``.
        fold: make Context Broadcasting cheaper where that is exact.
        batch: one size fixes the batch of an ONNX file or an engine; three are the smallest, most common and largest
            batch of an engine, whose other options ``options`` has, and leave an ONNX file's batch open.
        options: engine options; its ``batch`` is replaced by ``batch`` only where that was given.
        force: replace existing files.
        program: the captured model, if the caller has it already.
        progress: told each step.

    Raises:
        UsageError: no such format (CB-EXPORT-07), a fixed batch for a ``.pt2`` file (CB-EXPORT-09), or as the
            format's own function.
        CBSurgeonError: as the format's own function.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".onnx":
        return export_onnx(
            model, path, opset=opset, dtype=dtype, fold=fold, batch=batch if isinstance(batch, int) else None,
            external_data=external_data, force=force, program=program, progress=progress,
        )  # fmt: skip
    if suffix in ENGINE_SUFFIXES:
        chosen = options or BuildOptions()
        if batch != DEFAULT_BATCH:
            profile = (batch, batch, batch) if isinstance(batch, int) else batch
            chosen = dataclasses.replace(chosen, batch=profile)
        return export_engine(
            model, path, options=chosen, opset=opset, dtype=dtype, fold=fold, force=force, program=program,
            progress=progress,
        )  # fmt: skip
    if suffix == ".pt2":
        if isinstance(batch, int):
            raise UsageError(
                "a .pt2 file keeps its batch open",
                code="CB-EXPORT-09",
                where=str(path),
                why="it is a model to edit further, which needs to know the batch axis",
                do="fix the batch of an ONNX file or an engine made from it",
            )
        return _export_program(model, Path(path), dtype, force, program, progress)
    raise UsageError(
        f"no export format has the suffix {suffix or '(none)'!r}",
        code="CB-EXPORT-07",
        where=str(path),
        why=f"the formats are {', '.join(SUFFIXES)}",
        do="end the name in .onnx, .engine or .pt2",
    )


def _export_program(
    model: Model, path: Path, dtype: str | None, force: bool, program: Program | None, progress: Progress | None
) -> Export:
    target = atomic.check(path, force=force)
    clock = Clock(progress)
    if program is None:
        with clock("capture", "capturing the model"):
            program = capture(model)
    if dtype is not None and dtype != floating_type(program):
        with clock("cast", f"casting to {dtype}"):
            program = cast(program, DTYPES[dtype])
    with clock("write", "writing"):
        save(dataclasses.replace(model, module=None, program=program.exported), target, force=force)
    return Export(
        path=target,
        format="pt2",
        opset=None,
        dtype=floating_type(program),
        bytes=target.stat().st_size,
        sha256=sha256(target),
        inputs=_ports(program, program.input_names, inputs=True),
        outputs=_ports(program, program.output_names, inputs=False),
        versions={"cbsurgeon": __version__, "torch": torch.__version__},
        seconds=clock.seconds,
    )


def _ports(program: Program, names: tuple[str, ...], *, inputs: bool) -> tuple[Port, ...]:
    """Named values of a program with their types and dims; the batch symbol reads ``batch``."""
    graph = program.exported.graph
    if inputs:
        nodes = {node.name: node for node in graph.nodes if node.op == "placeholder"}
        values = [nodes[name].meta["val"] for name in names]
    else:
        specs = program.exported.graph_signature.output_specs
        results = zip(graph.output_node().args[0], specs, strict=True)
        values = [
            node.meta["val"] for node, spec in results if spec.kind.name == "USER_OUTPUT" and hasattr(node, "meta")
        ]
    return tuple(
        Port(
            name,
            str(value.dtype).removeprefix("torch."),
            tuple(
                size if isinstance(size, int) else "batch" if axis == 0 else str(size)
                for axis, size in enumerate(value.shape)
            ),
        )
        for name, value in zip(names, values, strict=True)
    )
