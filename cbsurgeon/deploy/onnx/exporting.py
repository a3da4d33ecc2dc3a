"""Exporting a model to an ONNX file, with ``torch.onnx`` on the captured program."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cbsurgeon.deploy.artifact import Export, FoldedSite
from cbsurgeon.deploy.clock import Clock
from cbsurgeon.deploy.folding.folds import fold as fold_program
from cbsurgeon.deploy.onnx import file as onnx_file
from cbsurgeon.deploy.onnx.attention import with_four_axes
from cbsurgeon.deploy.onnx.batch import BATCH, dynamic_sizes, fix_batch, name_sizes
from cbsurgeon.deploy.onnx.einsum import spell_in_lowercase
from cbsurgeon.deploy.onnx.lowering import EXPORTERS_OLDEST, lower, require_opset
from cbsurgeon.deploy.onnx.means import write_means_as_products
from cbsurgeon.deploy.onnx.metadata import METADATA_KEY, METADATA_SCHEMA
from cbsurgeon.deploy.onnx.naming import name_nodes
from cbsurgeon.deploy.onnx.translation import translated
from cbsurgeon.deploy.typed import Typed, check_types, floating_type, typed
from cbsurgeon.errors import ExportError, UsageError, missing
from cbsurgeon.graph import Program
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.capture.image_size import capture_dynamic_size
from cbsurgeon.models import preprocessing_of
from cbsurgeon.models.files import atomic
from cbsurgeon.models.model import Model
from cbsurgeon.options import ExportOptions, documented, resolve
from cbsurgeon.version import __version__
from cbsurgeon.vocabulary import DEFAULT_OPSET, OPSETS, Progress

# The first operator set in which Conv and a few other operators accept bfloat16.
BFLOAT16_OPSET = 22


# Metadata that torch.onnx adds to each node: it repeats the graph and contains source paths of the exporting machine.
_DROPPED_NOTES = (
    "pkg.torch.onnx.stack_trace",
    "pkg.torch.onnx.fx_node",
    "pkg.torch.onnx.class_hierarchy",
    "pkg.torch.onnx.original_node_name",
)


@documented(ExportOptions)
def export_onnx(
    model: Model,
    path: str | Path,
    how: ExportOptions | None = None,
    /,
    *,
    for_tensorrt: bool = False,
    force: bool = False,
    program: Program | None = None,
    progress: Progress | None = None,
    **keywords: Any,
) -> Export:
    """Export a model to ONNX, check the file, and write it atomically; the batch axis is dynamic and named ``batch``.

    Args:
        model: what to export, in evaluation mode.
        path: the file to write.
        how: how to write it; or its fields as keywords. Opset 17 is converted from 18; 23 has ``Attention`` as one
            operator. bfloat16 needs 22, so a lower opset is raised. In a 16-bit export, means still accumulate in
            float32.
        for_tensorrt: write folded operators in the form that TensorRT fuses best, not ONNX Runtime's fastest form.
        force: replace an existing file.
        program: the captured model, if the caller has it already.
        progress: called with a message at each step.

    Raises:
        UsageError: an unsupported opset or dtype (CB-EXPORT-01, CB-EXPORT-02), a batch below 1
            (CB-EXPORT-08), or one for a model whose batch is fixed already (CB-EXPORT-10), or no node to keep in
            float32 (CB-EXPORT-14).
        CaptureError: the model cannot be captured, or fixes the size of its images (CB-CAPTURE-07).
        ExportError: the 16-bit type overflows (CB-EXPORT-13), the exporter failed (CB-EXPORT-03), the model has no form
            in the operator set (CB-EXPORT-15), the result fails ``onnx.checker`` (CB-EXPORT-04), or the batch of the
            file is not as requested (CB-EXPORT-05). Nothing is written.
        OutputFileError: the file cannot be written there.
        MissingPackage: onnx or onnxscript is absent.
    """
    how = resolve(ExportOptions, how, keywords, "export_onnx")
    opset, batch = how.opset, how.only_batch
    _check_arguments(opset, batch)
    check_types(how)
    _import_exporter()
    target = atomic.check(path, force=force)
    clock = Clock(progress)
    if program is None or how.dynamic_size:
        with clock("capture", "capturing the model"):
            program = capture_dynamic_size(model) if how.dynamic_size else capture(model)
    form, sites = _prepare(program, how, for_tensorrt or batch is not None, clock)
    prepared = form.program
    if batch is not None and not prepared.batch_axes:
        raise UsageError(
            "the batch size of the program is fixed",
            code="CB-EXPORT-10",
            where=f"--batch {batch}",
            why="it was captured without a dynamic batch",
            do="leave the batch out, or capture the model with a dynamic batch",
        )
    if floating_type(prepared) == "bfloat16":
        opset = max(opset, BFLOAT16_OPSET)
    with clock("export", f"exporting to ONNX, opset {opset}"):
        exported = translated(with_four_axes(prepared), max(opset, EXPORTERS_OLDEST))
        require_opset(exported.model, max(opset, EXPORTERS_OLDEST))
        if not for_tensorrt and floating_type(prepared) == "float32":
            write_means_as_products(exported.model)
        spell_in_lowercase(exported.model)
        name_sizes(exported.model, prepared)
        if batch is not None:
            fix_batch(exported.model, batch)
        _finish(exported.model, _metadata(model, form, sites, how.fold))
        if opset < EXPORTERS_OLDEST:
            lower(exported.model, opset)
    written = _write(exported, prepared, batch, target, how.external_data, force, clock)
    return Export(
        path=target,
        format="onnx",
        dtype=floating_type(prepared),
        sites=sites,
        kept=form.kept,
        notes=form.notes,
        versions=_versions(),
        seconds=clock.seconds,
        **written,
    )


def _write(
    exported: Any,
    program: Program,
    batch: int | None,
    target: Path,
    external_data: bool | None,
    force: bool,
    clock: Clock,
) -> dict[str, Any]:
    """Move the file and its data into place after every check; return the fields of :class:`Export` about the files."""
    data = f"{target.name}.data"
    with atomic.bundle(target, force=force, companions=(data,)) as staged:
        with clock("write", "writing"):
            exported.save(staged, external_data=external_data)
        with clock("check", "checking the file"):
            proto = _read_back(staged, program, batch)
        inputs, outputs = onnx_file.ports(proto)
        return {
            "opset": onnx_file.opset(proto),
            "bytes": sum(file.stat().st_size for file in staged.parent.iterdir()),
            "sha256": onnx_file.sha256(staged),
            "inputs": inputs,
            "outputs": outputs,
            "external_data": target.parent / data if (staged.parent / data).exists() else None,
        }


def _check_arguments(opset: int, batch: int | None) -> None:
    if opset not in OPSETS:
        raise UsageError(
            f"ONNX opset {opset} is not supported",
            code="CB-EXPORT-01",
            where="--opset",
            why=f"exports are tested with opset {', '.join(map(str, OPSETS))}",
            do=f"use --opset {DEFAULT_OPSET}",
        )
    if batch is not None and batch < 1:
        raise UsageError(
            f"the batch size {batch} is not valid",
            code="CB-EXPORT-08",
            where=f"--batch {batch}",
            why="a batch has at least one sample",
            do="give 1 or more, or leave it out for a dynamic batch",
        )


def _import_exporter() -> None:
    onnx_file.import_onnx()
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing("onnxscript", "onnx", "torch.onnx") from error


def _prepare(program: Program, how: ExportOptions, plainly: bool, clock: Clock) -> tuple[Typed, tuple[FoldedSite, ...]]:
    sites: tuple[FoldedSite, ...] = ()
    if how.fold:
        with clock("fold", "folding"):
            program, sites = fold_program(program, plainly=plainly)
    return typed(program, how, clock), sites


def _finish(model: Any, metadata: Mapping[str, Any]) -> None:
    """Name the nodes, remove redundant node metadata, and write the metadata of cbsurgeon."""
    name_nodes(model)
    for graph in (model.graph, *model.functions.values()):
        for node in graph:
            for note in _DROPPED_NOTES:
                node.metadata_props.pop(note, None)
    model.producer_name, model.producer_version = "cbsurgeon", __version__
    model.metadata_props[METADATA_KEY] = json.dumps(metadata, sort_keys=True)


def _metadata(model: Model, form: Typed, sites: tuple[FoldedSite, ...], fold: bool) -> dict[str, Any]:
    program, source, preprocessing = form.program, model.provenance, preprocessing_of(model)
    return {
        "schema": METADATA_SCHEMA,
        "version": __version__,
        "recipes": [dict(recipe) for recipe in model.recipes],
        "provenance": {
            "reference": source.reference,
            "architecture": source.architecture,
            "architecture_options": dict(source.architecture_options),
            "sha256": source.sha256,
        },
        "dtype": floating_type(program),
        "float32": list(form.kept),
        "preprocessing": None if preprocessing is None else preprocessing.to_dict(),
        "fold": fold,
        "sites": [site.to_dict() for site in sites],
        # The ranges of token ids and masks, so that valid inputs can be generated from the file alone.
        "integer_inputs": {
            name: [int(tensor.min()), int(tensor.max())]
            for name, tensor in program.example.items()
            if not tensor.is_floating_point() and tensor.numel()
        },
        "batch_inputs": dict(program.batch_axes),
        "open_sizes": dynamic_sizes(program),
    }


def _read_back(path: Path, program: Program, batch: int | None) -> Any:
    """Check the file on disk, parse it, and check its batch axis."""
    try:
        onnx_file.check(path)
    except Exception as error:
        raise ExportError(
            "the exported file fails onnx.checker",
            code="CB-EXPORT-04",
            where=path.name,
            why=" ".join(str(error).split())[:300],
            do="nothing was written; try another --opset, and report this with the model's name",
        ) from error
    proto = onnx_file.load(path)
    inputs, _ = onnx_file.ports(proto)
    dims, wanted = {port.name: port.dims for port in inputs}, batch or BATCH
    other = [name for name, axis in program.batch_axes.items() if dims.get(name, (0,) * 9)[axis] != wanted]
    if other:
        raise ExportError(
            "the batch of the exported file is not as requested",
            code="CB-EXPORT-05",
            where=f"inputs {', '.join(f'{name} {list(dims.get(name, ()))}' for name in other)}",
            why=f"axis 0 should be {wanted!r}",
            do="nothing was written; update torch and onnxscript",
        )
    return proto


def _versions() -> dict[str, str]:
    import onnx
    import onnxscript

    return {
        "cbsurgeon": __version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxscript": onnxscript.__version__,
    }
