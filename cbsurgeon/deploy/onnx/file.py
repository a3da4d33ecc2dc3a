"""Reading and checking ONNX files: inputs, outputs, types and shapes."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cbsurgeon.deploy.artifact import Port
from cbsurgeon.deploy.onnx import walking
from cbsurgeon.deploy.onnx.external import external_names, require_own
from cbsurgeon.deploy.onnx.metadata import LARGEST_COUNT, LARGEST_SIZE, metadata_of, usual_sizes
from cbsurgeon.errors import InputFileError, MissingPackage, missing

# Older versions of onnx follow symbolic and hard links out of the model's folder when they load external data, and let
# it set arbitrary attributes (CVE-2026-27489, -34445, -34446, -34447).
ONNX_FLOOR = (1, 21)

# A protocol buffer holds at most 2 GiB. Weights of larger models are in a separate file, and onnx must work by path.
PROTOBUF_LIMIT = 2**31 - 1

MOST_NODES = 1_000_000
"""Largest number of nodes once every call of a function is replaced by its nodes, as runtimes do."""

_CHUNK = 1 << 22

COPIED = 1 << 20
"""Bytes of a tensor whose data are copied to count them. Larger ones are counted with their name and shape."""

_PACKED = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
"""Bits of the element types that share bytes."""


def import_onnx() -> Any:
    """Import the onnx package, at a version whose loader is safe.

    Raises:
        MissingPackage: it is absent or too old (CB-MISSING-01, CB-MISSING-02).
    """
    try:
        import onnx
    except ImportError as error:
        raise missing("onnx", "onnx", "reading and writing ONNX files") from error
    numbers = tuple(int(part) for part in re.findall(r"\d+", onnx.__version__)[:2])
    if numbers < ONNX_FLOOR:
        raise MissingPackage(
            f"onnx {onnx.__version__} is too old to load files safely",
            code="CB-MISSING-02",
            where=str(onnx.__file__),
            why="before 1.21 a model's external data could reach files outside its folder",
            do="pip install 'onnx>=1.21'",
        )
    return onnx


def load(path: Path, *, weights: bool = False) -> Any:
    """Parse an ONNX file.

    Args:
        path: the file.
        weights: read external data as well.

    Raises:
        InputFileError: there is no such file (CB-ONNX-01), it is not an ONNX model (CB-ONNX-02), or its weights are
            in a file outside its folder or behind a link (CB-ONNX-05).
        MissingPackage: onnx is not installed.
    """
    onnx = import_onnx()
    require_file(path, "CB-ONNX-01")
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise not_onnx(path, error) from error
    if not proto.graph.node or not proto.opset_import:
        raise not_onnx(path, ValueError("it has no graph"))
    if why := _fault(proto):
        raise not_onnx(path, ValueError(why))
    for name in external_names(proto):
        require_own(path, name)
    if weights:
        try:
            onnx.load_external_data_for_model(proto, str(path.parent))
        except Exception as error:
            raise not_onnx(path, error) from error
    return proto


def _fault(proto: Any) -> str:
    """Return what makes a parsed model unusable; empty if nothing was found."""
    if any(isinstance(text, bytes) for text in _texts(proto)):
        return "a name in it is not UTF-8"
    if any(not node.output for node in proto.graph.node):
        return "a node in it has no output"
    if not any(item.domain in ("", "ai.onnx") for item in proto.opset_import):
        return "it names no version of the default operator set"
    if not proto.graph.output:
        return "it has no outputs"
    try:
        if walking.expanded(proto) > MOST_NODES:
            return f"its functions stand for more than {MOST_NODES} nodes"
    except ValueError as error:
        return str(error)
    names = [tensor.name for tensor in proto.graph.initializer]
    if len(set(names)) != len(names):
        return "two initialisers in it have the same name"
    known = set(import_onnx().TensorProto.DataType.values())
    for kind in _types(proto):
        if kind not in known:
            return f"a tensor in it has the unknown element type {kind}"
    for shape in _shapes(proto):
        if any(not 0 <= size <= LARGEST_SIZE for size in shape):
            return f"a size in it is negative or above {LARGEST_SIZE}"
        if math.prod(size or 1 for size in shape) > LARGEST_COUNT:
            return f"a tensor in it has more than {LARGEST_COUNT} values"
    for tensor in (tensor for graph in walking.graphs(proto) for tensor in walking.tensors(graph)):
        if _misfit(tensor):
            return f"the data of tensor {tensor.name!r} do not fit its shape {list(tensor.dims)}"
    return ""


def _misfit(tensor: Any) -> bool:
    """Whether the bytes of a tensor in the file itself are fewer or more than its shape and type need."""
    if not tensor.HasField("raw_data") or tensor.data_location == tensor.EXTERNAL:
        return False
    onnx = import_onnx()
    kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    bits = _PACKED.get(kind) or 8 * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    needed = -(-math.prod(tensor.dims) * bits // 8)
    if tensor.ByteSize() < COPIED:
        return bool(len(tensor.raw_data) != needed)
    return not needed <= int(tensor.ByteSize()) <= needed + COPIED // 2  # raw_data would copy all of them


def external_files(path: Path) -> list[Path]:
    """Return the files that contain an ONNX file's external weights.

    Raises:
        CBSurgeonError: any error of :func:`load`.
    """
    return [path.parent / name for name in external_names(load(path))]


def _texts(proto: Any) -> Iterator[str | bytes]:
    """Yield every name in a model; protocol buffers return bytes for a name that is not UTF-8."""
    yield from (item.domain for item in proto.opset_import)
    yield from (text for item in proto.metadata_props for text in (item.key, item.value))
    for graph in walking.graphs(proto):
        yield graph.name
        yield from (tensor.name for tensor in walking.tensors(graph))
        yield from (value.name for value in walking.values(graph))
        for node in graph.node:
            yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
            yield from (attribute.name for attribute in node.attribute)
            yield from (text for item in node.metadata_props for text in (item.key, item.value))


def _shapes(proto: Any) -> Iterator[list[int]]:
    """Yield every shape declared in a model; a dimension without a size is 0."""
    for graph in walking.graphs(proto):
        yield from (list(tensor.dims) for tensor in walking.tensors(graph))
        for value in walking.values(graph):
            yield [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _types(proto: Any) -> Iterator[int]:
    """Yield the element type of every tensor and of every declared value in a model; an undeclared one has none."""
    for graph in walking.graphs(proto):
        yield from (tensor.data_type or -1 for tensor in walking.tensors(graph))
        yield from (value.type.tensor_type.elem_type for value in walking.values(graph))


def require_file(path: Path, code: str) -> None:
    """Raise an error unless the path is a file."""
    if path.is_file():
        return
    raise InputFileError(
        "the file cannot be read",
        code=code,
        where=str(path),
        why="it does not exist" if not path.exists() else "it is a folder or a device",
        do="check the name",
    )


def not_onnx(path: Path, error: Exception) -> InputFileError:
    """Return the error for a file that is not an ONNX model."""
    return InputFileError(
        "this is not a readable ONNX model",
        code="CB-ONNX-02",
        where=str(path),
        why=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}; {path.stat().st_size} bytes",
        do="export it again; the file may be incompletely copied, or its .data file missing",
    )


def check(path: Path) -> None:
    """Run ``onnx.checker`` with full checks: every node, strict shape inference, declared shapes.

    Raises:
        Exception: the checker's own error.
    """
    import_onnx().checker.check_model(str(path), full_check=True)


def ports(proto: Any) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return the inputs and outputs of a parsed model, without initializers."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    usual = usual_sizes(proto)
    inputs = tuple(_port(value, usual) for value in proto.graph.input if value.name not in weights)
    return inputs, tuple(_port(value, usual) for value in proto.graph.output)


def _port(value: Any, usual: Mapping[str, int]) -> Port:
    onnx = import_onnx()
    tensor = value.type.tensor_type
    word = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    names = {"float": "float32", "double": "float64"}
    dims = tuple(dim.dim_param or "?" if not dim.HasField("dim_value") else dim.dim_value for dim in tensor.shape.dim)
    named = {str(dim): usual[dim] for dim in dims if dim in usual}
    return Port(value.name, names.get(word, word), dims, named)


def opset(proto: Any) -> int:
    """Return the version of the default operator set."""
    return int(next(item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")))


def floating(found: tuple[Port, ...]) -> str:
    """Return the first floating type among some ports other than float32; else ``float32``."""
    return next((port.dtype for port in found if port.dtype in ("float16", "bfloat16", "float64")), "float32")


def read_metadata(path: str | Path) -> dict[str, Any] | None:
    """Return the metadata that cbsurgeon wrote into an ONNX file: version, recipes, provenance, folded sites.

    Returns:
        The document (schema ``cbsurgeon.onnx/1``), or ``None`` if cbsurgeon did not write the file.

    Raises:
        InputFileError: no such file, not an ONNX model, or damaged metadata (CB-ONNX-03).
        MissingPackage: onnx is not installed.
    """
    proto = load(Path(path))
    return metadata_of(proto, Path(path))


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()
