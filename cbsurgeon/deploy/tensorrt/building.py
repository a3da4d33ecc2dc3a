"""Building TensorRT engines from ONNX files and models, with ``tensorrt`` 10, 11 or ``tensorrt_rtx``."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cbsurgeon.deploy import manifest
from cbsurgeon.deploy.artifact import Export, Port
from cbsurgeon.deploy.clock import Clock
from cbsurgeon.deploy.onnx import file as onnx_file
from cbsurgeon.deploy.onnx.exporting import export_onnx
from cbsurgeon.deploy.onnx.metadata import metadata_of, module_path
from cbsurgeon.deploy.tensorrt.build_options import BuildOptions, fitted, profiled
from cbsurgeon.deploy.tensorrt.monitor import Cancellation, monitor
from cbsurgeon.deploy.tensorrt.package import TensorRT, find, logger
from cbsurgeon.errors import ExportError, UsageError
from cbsurgeon.graph import Program
from cbsurgeon.models.files import atomic
from cbsurgeon.models.model import Model
from cbsurgeon.options import ExportOptions, documented, resolve
from cbsurgeon.version import __version__
from cbsurgeon.vocabulary import Progress

_KEPT = ("dtype", "recipes", "provenance", "sites", "integer_inputs", "preprocessing")
"""Fields of the ONNX file's metadata that are copied into the engine's manifest."""
_LARGEST_BATCH = (1 << 31) - 1
"""TensorRT's builders keep the lower 32 bits of a larger size, and build for another batch without an error."""


@documented(ExportOptions)
def export_engine(
    model: Model,
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
    """Build an engine from a model, through a temporary ONNX file.

    Args:
        model: what to export, in evaluation mode.
        path: the engine to write.
        how: how to export; or its fields as keywords.
        build: how to build; the ``batch`` of ``how``, if given, replaces its ``batch``.
        force: replace existing files.
        program: the captured model, if the caller has it already.
        progress: called with a message at each step.

    Raises:
        CBSurgeonError: as :func:`cbsurgeon.deploy.onnx.exporting.export_onnx` and :func:`build_engine`.
    """
    how = resolve(ExportOptions, how, keywords, "export_engine")
    options = profiled(build or BuildOptions(), how)
    find(options.package)
    target = atomic.check(path, force=force)
    with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as folder:
        middle = Path(folder) / (target.stem + ".onnx")
        how = replace(how, batch=options.only_batch or options.batch)
        made = export_onnx(model, middle, how, for_tensorrt=True, program=program, progress=progress)
        built = build_engine(middle, target, options=options, force=force, progress=progress)
    return replace(built, sites=made.sites, seconds={**made.seconds, **built.seconds})


def build_engine(
    onnx: str | Path,
    path: str | Path,
    *,
    options: BuildOptions | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Export:
    """Build an engine and its manifest from an ONNX file, with the file's types and without TF32.

    Args:
        onnx: the model; no dimension other than the batch may be dynamic.
        path: the engine to write; the manifest is ``path`` plus ``.json``.
        options: batch profile, package, limits.
        force: replace existing files.
        progress: called with a message at each phase; it may raise to stop the build.

    Raises:
        UsageError: a batch profile that is not ``min <= opt <= max`` (CB-ENGINE-06), a target or timing cache that the
            package does not accept (CB-ENGINE-07, CB-ENGINE-08).
        InputFileError: the ONNX file cannot be read.
        ExportError: the parser cannot read a node (CB-ENGINE-09), the build failed (CB-ENGINE-10) or was cancelled
            (CB-ENGINE-11). Nothing is written.
        MissingPackage: no TensorRT is installed.
    """
    options, source = options or BuildOptions(), Path(onnx)
    trt = find(options.package)
    _check_options(options, trt)
    target = atomic.check(path, force=force, inputs=(source,))
    clock = Clock(progress)
    proto = onnx_file.load(source)
    inputs, outputs = onnx_file.ports(proto)
    metadata = metadata_of(proto, source) or {}
    options = fitted(options, inputs, metadata.get("batch_inputs") or {}, source.name)
    log = logger(trt)
    builder = _builder(trt, log)
    with clock("parse", f"reading the model into {trt.name} {trt.version}"):
        network = builder.create_network(_network_flags(trt))
        parser = trt.module.OnnxParser(network, log)
        if not parser.parse_from_file(str(source)):
            raise _parser_error(parser, proto, source)
    config = _config(trt, builder, options, inputs)
    with clock("build", f"building the engine with {trt.name} {trt.version}"):
        plan = _build(trt, builder, network, config, log, progress)
    facts = _facts(trt, options, source, proto, inputs, outputs)
    written = _write(target, plan, facts, source, force)
    _save_timing_cache(config, options)
    return Export(
        path=target,
        format="engine",
        opset=onnx_file.opset(proto),
        dtype=str(metadata.get("dtype") or onnx_file.floating(inputs)),
        bytes=int(plan.nbytes),
        sha256=written,
        inputs=inputs,
        outputs=outputs,
        batch=options.batch,
        manifest=manifest.beside(target),
        versions={"cbsurgeon": __version__, "torch": torch.__version__, trt.name: trt.version},
        seconds=clock.seconds,
    )


def _check_options(options: BuildOptions, trt: TensorRT) -> None:
    low, best, high = options.batch
    if not 1 <= low <= best <= high <= _LARGEST_BATCH:
        raise UsageError(
            "the sizes of the batch profile are not in ascending order",
            code="CB-ENGINE-06",
            where=f"--batch {low},{best},{high}",
            why="the profile has the smallest, the most common and the largest batch size, from 1 to 2147483647",
            do="--batch 1,8,64",
        )
    unknown = [target for target in options.targets if target not in trt.targets]
    if unknown:
        raise UsageError(
            f"{trt.name} {trt.version} cannot build for {', '.join(unknown)}",
            code="CB-ENGINE-07",
            where="BuildOptions(targets=...)",
            why=f"its targets are {', '.join(trt.targets)}" if trt.targets else "it builds for the GPU it runs on",
            do="leave the target out" + (" to build for all of them" if trt.targets else ""),
        )
    if options.timing_cache is not None and trt.rtx:
        raise UsageError(
            "TensorRT-RTX does not use a timing cache",
            code="CB-ENGINE-08",
            where=str(options.timing_cache),
            why="it does not time kernels during a build",
            do="leave it out",
        )


def _builder(trt: TensorRT, log: Any) -> Any:
    try:
        return trt.module.Builder(log)
    except Exception as error:
        raise ExportError(
            f"{trt.name} could not start its builder",
            code="CB-ENGINE-10",
            where=f"{trt.name} {trt.version}",
            why="; ".join(log.errors[-2:]) or str(error),
            do="it needs an NVIDIA GPU and driver; without one, install tensorrt-rtx",
        ) from error


def _network_flags(trt: TensorRT) -> int:
    """Return the flag for strong typing, which is always on since TensorRT 11."""
    flag = getattr(trt.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _config(trt: TensorRT, builder: Any, options: BuildOptions, inputs: Sequence[Port]) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.module.MemoryPoolType.WORKSPACE, options.workspace)
    config.profiling_verbosity = trt.module.ProfilingVerbosity.DETAILED
    if hasattr(trt.module.BuilderFlag, "TF32"):
        config.clear_flag(trt.module.BuilderFlag.TF32)
    if options.level is not None:
        config.builder_optimization_level = options.level
    if options.targets:
        config.num_compute_capabilities = len(options.targets)
        for index, target in enumerate(options.targets):
            config.set_compute_capability(getattr(trt.module.ComputeCapability, target), index)
    if options.timing_cache is not None:
        known = options.timing_cache.read_bytes() if options.timing_cache.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    profile = builder.create_optimization_profile()
    for port in inputs:
        profile.set_shape(port.name, *(_shape(port, size) for size in options.batch))
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(
            "the builder refused the batch profile",
            code="CB-ENGINE-10",
            where=str(options.batch),
            why="a batch size is outside what the network allows",
            do="give another --batch, or none",
        )
    return config


def _shape(port: Port, batch: int) -> tuple[int, ...]:
    """Return an input's shape at one batch size; no other dimension may be dynamic."""
    free = {dim for dim in port.dims if isinstance(dim, str)}
    if len(free) > 1:
        raise ExportError(
            "an input has more than one dynamic dimension",
            code="CB-ENGINE-10",
            where=str(port),
            why="the batch profile covers only the batch",
            do="export the model with every other size fixed",
        )
    return tuple(batch if isinstance(dim, str) else dim for dim in port.dims)


def _parser_error(parser: Any, proto: Any, source: Path) -> ExportError:
    """Return the error for the first node the parser could not read, with its module path."""
    error = parser.get_error(0) if parser.num_errors else None
    name = error.node_name() if error is not None else ""
    node = next((node for node in proto.graph.node if node.name == name), None) if name else None
    block = module_path({item.key: item.value for item in node.metadata_props}) if node is not None else ""
    place = f"node {name} ({error.node_operator()})" if error is not None and name else str(source)
    return ExportError(
        "the TensorRT parser cannot read this model",
        code="CB-ENGINE-09",
        where=place + (f", in {block}" if block else ""),
        why=" ".join(error.desc().split())[:300] if error is not None else "it gave no reason",
        do="export with another --opset, or replace that operation",
    )


def _build(trt: TensorRT, builder: Any, network: Any, config: Any, log: Any, progress: Progress | None) -> Any:
    cancellation = Cancellation()
    config.progress_monitor = monitor(trt, progress, cancellation)
    with cancellation.on_interrupt():
        plan = builder.build_serialized_network(network, config)
    if cancellation.error is not None:
        raise cancellation.error
    if cancellation.requested:
        raise ExportError(
            "the engine build was cancelled",
            code="CB-ENGINE-11",
            where=f"{trt.name} {trt.version}",
            why="an interrupt arrived",
            do="nothing was written; run it again to build",
        )
    if plan is None:
        raise ExportError(
            f"{trt.name} {trt.version} could not build the engine",
            code="CB-ENGINE-10",
            where="the build of the whole network",
            why=" ".join("; ".join(log.errors[-2:]).split())[:400] or "it gave no reason",
            do="give a smaller largest --batch, or a larger BuildOptions(workspace=...) in Python",
        )
    return plan


def _facts(
    trt: TensorRT,
    options: BuildOptions,
    source: Path,
    proto: Any,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
) -> dict[str, Any]:
    metadata = metadata_of(proto, source) or {}
    return {
        "package": {"name": trt.name, "version": trt.version},
        "versions": {"cbsurgeon": __version__, "torch": torch.__version__},
        "targets": list(options.targets),
        "batch": list(options.batch),
        "workspace": options.workspace,
        "tf32": False,
        "onnx": {"name": source.name, "sha256": onnx_file.sha256(source), "opset": onnx_file.opset(proto)},
        "inputs": [port.to_dict() for port in inputs],
        "outputs": [port.to_dict() for port in outputs],
        "model": {key: metadata.get(key) for key in _KEPT},
    }


def _write(target: Path, plan: Any, facts: dict[str, Any], source: Path, force: bool) -> str:
    note = manifest.beside(target).name
    with atomic.bundle(target, force=force, inputs=(source,), companions=(note,), bridge=manifest.bridge) as staged:
        staged.write_bytes(plan)
        digest = onnx_file.sha256(staged)
        engine = {"name": target.name, "bytes": int(plan.nbytes), "sha256": digest}
        manifest.write(staged.with_name(note), {**facts, "engine": engine})
    return digest


def _save_timing_cache(config: Any, options: BuildOptions) -> None:
    if options.timing_cache is None:
        return
    with atomic.output(options.timing_cache, force=True) as staged:
        staged.write_bytes(config.get_timing_cache().serialize())
