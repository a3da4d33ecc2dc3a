"""Exporting to any format; the file's suffix chooses it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from cbsurgeon.deploy.artifact import Export, Port
from cbsurgeon.deploy.clock import Clock
from cbsurgeon.deploy.onnx.exporting import export_onnx
from cbsurgeon.deploy.onnx.file import sha256
from cbsurgeon.deploy.tensorrt.build_options import BuildOptions, profiled
from cbsurgeon.deploy.tensorrt.building import build_engine, export_engine
from cbsurgeon.deploy.typed import check_types, floating_type, typed
from cbsurgeon.errors import UsageError
from cbsurgeon.graph import Program
from cbsurgeon.graph.capture import capture
from cbsurgeon.models import save
from cbsurgeon.models.files import atomic
from cbsurgeon.models.model import Model
from cbsurgeon.models.saving import sources
from cbsurgeon.options import ExportOptions, documented, resolve
from cbsurgeon.version import __version__
from cbsurgeon.vocabulary import ENGINE_SUFFIXES, Progress

SUFFIXES = (".onnx", *ENGINE_SUFFIXES, ".pt2")


@documented(ExportOptions)
def export(
    model: Model | str | Path,
    path: str | Path,
    how: ExportOptions | None = None,
    /,
    *,
    build: BuildOptions | None = None,
    force: bool = False,
    program: Program | None = None,
    progress: Progress | None = None,
    **keywords: Any,
) -> Export:
    """Write a model as ``.onnx``, ``.engine`` (also ``.plan``, ``.trt``) or ``.pt2``, or build an engine from ONNX.

    A ``.pt2`` file can be edited further, so nothing is folded into its weights and its batch stays dynamic; ``opset``
    has no effect on it.

    Args:
        model: what to export, in evaluation mode; or the path of an ``.onnx`` file, to build an engine from.
        path: the file; its suffix chooses the format.
        how: how to write it; or its fields as keywords.
        build: further options of an engine; the ``batch`` of ``how``, if given, replaces its ``batch``.
        force: replace existing files.
        program: the captured model, if the caller has it already.
        progress: called with a message at each step.

    Raises:
        UsageError: an unknown format (CB-EXPORT-07), a fixed batch for a ``.pt2`` file (CB-EXPORT-09), or an option
            that cannot change an ONNX file (CB-EXPORT-11).
        CBSurgeonError: as :func:`export_onnx` and :func:`export_engine`.
    """
    how = resolve(ExportOptions, how, keywords, "export")
    suffix = Path(path).suffix.lower()
    if isinstance(model, str | Path):
        return _from_file(Path(model), Path(path), how, build, force, progress)
    if suffix in SUFFIXES:
        atomic.check(path, force=force, inputs=sources(model))
    if suffix == ".onnx":
        return export_onnx(model, path, how, force=force, program=program, progress=progress)
    if suffix in ENGINE_SUFFIXES:
        return export_engine(model, path, how, build=build, force=force, program=program, progress=progress)
    if suffix == ".pt2":
        if isinstance(how.batch, int):
            raise UsageError(
                "the batch of a .pt2 file cannot be fixed",
                code="CB-EXPORT-09",
                where=str(path),
                why="a .pt2 file can be edited further, and editing needs a dynamic batch axis",
                do="leave out --batch, or fix the batch of the ONNX file or engine made from it",
            )
        return _export_program(model, Path(path), how, force, program, progress)
    raise UsageError(
        f"no export format has the suffix {suffix or '(none)'!r}",
        code="CB-EXPORT-07",
        where=str(path),
        why=f"the formats are {', '.join(SUFFIXES)}",
        do="end the name in .onnx, .engine or .pt2",
    )


def _from_file(
    source: Path,
    path: Path,
    how: ExportOptions,
    build: BuildOptions | None,
    force: bool,
    progress: Progress | None,
) -> Export:
    """Build an engine from an ONNX file.

    Raises:
        UsageError: the source is not an ONNX file or the output not an engine (CB-EXPORT-12), or an option cannot
            change an ONNX file (CB-EXPORT-11).
    """
    if source.suffix.lower() != ".onnx" or path.suffix.lower() not in ENGINE_SUFFIXES:
        raise UsageError(
            f"{source.suffix or 'this'} file cannot be exported as {path.suffix or 'a file without suffix'}",
            code="CB-EXPORT-12",
            where=f"{source} -> {path}",
            why="the only file that can be exported is an .onnx file, and only to an engine",
            do=f"end the output in {' or '.join(ENGINE_SUFFIXES)}, or export the model itself",
        )
    default = ExportOptions()
    changed = [
        name for name in ("opset", "dtype", "fold", "keep_float32") if getattr(how, name) != getattr(default, name)
    ]
    if changed:
        raise UsageError(
            f"--{changed[0].replace('_', '-')} cannot change an ONNX file",
            code="CB-EXPORT-11",
            where=str(source),
            why="its operator set, types and weights were fixed when it was exported",
            do="leave the option out, or export the model again with it",
        )
    return build_engine(source, path, options=profiled(build or BuildOptions(), how), force=force, progress=progress)


def _export_program(
    model: Model, path: Path, how: ExportOptions, force: bool, program: Program | None, progress: Progress | None
) -> Export:
    check_types(how)
    target = atomic.check(path, force=force)
    clock = Clock(progress)
    if program is None:
        with clock("capture", "capturing the model"):
            program = capture(model)
    form = typed(program, how, clock)
    program = form.program
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
        kept=form.kept,
        notes=form.notes,
        versions={"cbsurgeon": __version__, "torch": torch.__version__},
        seconds=clock.seconds,
    )


def _ports(program: Program, names: tuple[str, ...], *, inputs: bool) -> tuple[Port, ...]:
    """Return the program's inputs or outputs with types and dims; the batch symbol is called ``batch``."""
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
