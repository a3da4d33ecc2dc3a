"""Opening ONNX Runtime sessions: choosing the provider and its options, and checking that nothing ran on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cbsurgeon.deploy.onnx import file as onnx_file
from cbsurgeon.deploy.runtimes.runtime import require_cuda
from cbsurgeon.errors import CheckFailed, InputFileError, UsageError, missing

_PROVIDERS = {
    "onnxruntime": {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"},
    "onnxruntime-tensorrt": {"cuda": "TensorrtExecutionProvider"},
}

# Operators on shapes and indices, which ONNX Runtime runs on the CPU on purpose.
_SHAPE_OPERATORS = {
    "Shape", "Size", "Gather", "Concat", "Slice", "Squeeze", "Unsqueeze", "Cast", "Range", "Constant",
    "ConstantOfShape", "Add", "Sub", "Mul", "Div", "Mod", "Equal", "Where", "Reshape", "Expand", "ReduceProd",
}  # fmt: skip

_RECORD = {"CUDAExecutionProvider": "enable_cuda_graph", "TensorrtExecutionProvider": "trt_cuda_graph_enable"}
"""The option with which a provider records its first runs as a CUDA graph and replays it in later runs."""

_TENSORS = {
    f"tensor({name})"
    for name in (
        "float", "double", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16",
        "uint8", "bool", "complex64", "complex128",
    )
}  # fmt: skip
"""Types of inputs and outputs that torch supports, under the names that a session gives them."""

_FATAL_ONLY = 4  # errors are also raised as exceptions


def library() -> Any:
    """Import the onnxruntime package.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise missing("onnxruntime", "onnx", "running ONNX files") from error
    return onnxruntime


def provider_for(backend: str, device: str) -> str:
    """Return the execution provider of a back end on a device.

    Raises:
        UsageError: no GPU (CB-RUN-03), or this installation lacks the provider (CB-RUN-06).
    """
    ort = library()
    kind = torch.device(device).type
    provider = _PROVIDERS[backend].get(kind)
    if kind == "cuda" or backend == "onnxruntime-tensorrt":
        require_cuda(f"the back end {backend} on {device}")
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
    available = ort.get_available_providers()
    if provider is None or provider not in available:
        raise UsageError(
            f"this ONNX Runtime has no {provider or backend}",
            code="CB-RUN-06",
            where=f"onnxruntime {ort.__version__}",
            why=f"it has {', '.join(available)}",
            do="pip uninstall onnxruntime && pip install 'cbsurgeon[gpu]'",
        )
    return provider


def session_options(threads: int | None, optimize: bool, profile: Path | None = None) -> Any:
    """Return session options that suppress logging and record which provider runs which operator.

    Args:
        threads: threads within one operator; ``None`` leaves it to ONNX Runtime.
        optimize: let ONNX Runtime rewrite the graph.
        profile: prefix of a profile file to write.
    """
    ort = library()
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return options


def with_outputs(proto: Any, names: Sequence[str]) -> Any:
    """Add intermediate values as outputs of a model, in place, and return the model."""
    known = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx_file.import_onnx().ValueInfoProto(name=name) for name in names if name not in known)
    return proto


def open_session(path: Path, options: Any, provider: str, *, proto: Any = None, record: bool = False) -> Any:
    """Open a session for a file.

    Args:
        path: the file.
        options: from :func:`session_options`.
        provider: from :func:`provider_for`.
        proto: a model to open instead of the file; its external data are in the file's folder.
        record: record the first runs as a CUDA graph, and replay it in later runs.

    Raises:
        InputFileError: ONNX Runtime refuses it (CB-RUN-05).
    """
    ort = library()
    source: Any = str(path)
    if proto is not None:
        source = proto.SerializeToString()
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    try:
        return ort.InferenceSession(source, options, providers=[(provider, _provider_options(provider, record))])
    except Exception as error:
        raise cannot_run(path, error) from error


def require_tensors(session: Any, path: Path) -> None:
    """Raise an error if an input or output is not a tensor of numbers that torch has: a text, a list, 4-bit numbers.

    Raises:
        InputFileError: there is one (CB-RUN-05).
    """
    for what, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for value in values:
            if value.type not in _TENSORS:
                why = f"{what} {value.name} is {value.type}, which is not a tensor of numbers that torch computes with"
                raise cannot_run(path, ValueError(why))


def cannot_run(path: Path, error: Exception) -> InputFileError:
    """Return the error for a file that ONNX Runtime cannot run."""
    return InputFileError(
        "ONNX Runtime cannot run this file",
        code="CB-RUN-05",
        where=str(path),
        why=" ".join(str(error).split())[:300],
        do="check it with `cbsurgeon inspect`, or export it again",
    )


def _provider_options(provider: str, record: bool) -> dict[str, str]:
    found = {"use_tf32": "0"} if provider == "CUDAExecutionProvider" else {}
    return {**found, _RECORD[provider]: "1"} if record else found


def check_placement(session: Any, provider: str, path: Path) -> None:
    """Raise an error if part of a session does not run on the requested provider: timings would be misleading.

    Raises:
        CheckFailed: part of the model fell back to the CPU (CB-RUN-07).
    """
    if provider == "CPUExecutionProvider":
        return
    first = session.get_providers()[0]
    strays: list[str] = []
    if hasattr(session, "get_provider_graph_assignment_info"):
        allowed = {provider, "CUDAExecutionProvider"}
        strays = [
            f"{node.name} ({node.op_type})"
            for part in session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
            if part.ep_name not in allowed and node.op_type not in _SHAPE_OPERATORS
        ]
    if first == provider and not strays:
        return
    raise CheckFailed(
        "part of the model fell back to the CPU",
        code="CB-RUN-07",
        where=f"{path}: {', '.join(strays[:3]) or 'all of it'}",
        why=f"{provider} was requested; {len(strays) or 'all'} operators run on {first if not strays else 'the CPU'}",
        do="export with --opset 20, and check the CUDA and cuDNN libraries of this installation",
    )
