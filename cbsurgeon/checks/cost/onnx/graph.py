"""Counting the nodes of an ONNX file, and finding the inserted operators among them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from cbsurgeon.checks.cost import rules
from cbsurgeon.checks.cost.inserted import Group
from cbsurgeon.checks.cost.nodes import NodeCost
from cbsurgeon.checks.cost.onnx.rules import FREE, MOVES, RULES, FileNode, resized
from cbsurgeon.checks.cost.rules import Call, NotCountable, Shape
from cbsurgeon.deploy.folding.folds import AVERAGE
from cbsurgeon.deploy.onnx import file as onnx_file
from cbsurgeon.deploy.onnx.metadata import LARGEST_COUNT, metadata_of, usual_sizes
from cbsurgeon.errors import UsageError
from cbsurgeon.operators import Operator
from cbsurgeon.operators.registry import classes

_GATHERS = ("Gather", "GatherElements", "GatherND")
_SHAPES_ONLY = 4096
"""Integer initialisers of at most this many values are read for shape inference; larger ones are data."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file: its shape, its bytes per element, and whether it is floating-point."""

    shape: Shape
    itemsize: int
    floating: bool

    @property
    def bytes(self) -> int:
        """Its size in bytes."""
        return prod(self.shape) * self.itemsize


class OnnxGraph:
    """An ONNX file with inferred shapes at one batch size, and at the image size at export if that is dynamic.

    Args:
        path: the file; external weights are not read.
        batch: batch size for inputs with a dynamic batch.

    Raises:
        InputFileError: no such file, or it is not an ONNX model.
        UsageError: the file's batch is fixed to another size, or another dimension is dynamic (CB-AUDIT-05).
        MissingPackage: onnx is not installed.
    """

    def __init__(self, path: Path, batch: int) -> None:
        self.path = path
        self.proto = _inferred(onnx_file.load(path), path, batch)
        self.tensors = dict(_tensors(self.proto))
        self.initializers = {tensor.name for tensor in self.proto.graph.initializer}

    @property
    def dtype(self) -> str:
        """The floating type of most weight values."""
        onnx = onnx_file.import_onnx()
        values: Counter[str] = Counter()
        for tensor in self.proto.graph.initializer:
            if self.tensors[tensor.name].floating:
                kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
                values[{"float": "float32", "double": "float64"}.get(kind, kind)] += prod(tensor.dims)
        return values.most_common(1)[0][0] if values else "float32"

    def parameters(self) -> dict[str, int]:
        """Return name → number of values for floating-point initialisers of more than one value.

        Single values are constants of the graph. The running statistics of a batch norm and the row of ``1 / tokens``
        of an exported mean are not parameters. A file stores equal tensors once, so the equal biases of an untrained
        model count once.
        """
        others: set[str] = set()
        for node in self.proto.graph.node:
            if node.op_type == "BatchNormalization":
                others |= set(node.input[3:5])
            if AVERAGE in _namespace(node):
                others |= set(node.input)
        return {
            tensor.name: prod(tensor.dims)
            for tensor in self.proto.graph.initializer
            if prod(tensor.dims) > 1 and self.tensors[tensor.name].floating and tensor.name not in others
        }

    def costs(self) -> Iterator[NodeCost]:
        """Yield the cost of each node, in order."""
        for position, node in enumerate(self.proto.graph.node):
            yield self._cost(node, node.name or f"{node.op_type}_{position}")

    def _cost(self, node: Any, name: str) -> NodeCost:
        stack = _stack(node)
        result = self.tensors.get(node.output[0])
        shape = result.shape if result else ()
        if node.op_type in FREE and not node.domain:
            return NodeCost(name, node.op_type, "free", stack=stack, output=shape)
        read = [self.tensors.get(source) for source in node.input]
        unknown = any(tensor is None and given for tensor, given in zip(read, node.input, strict=True))
        try:
            if unknown or result is None:
                raise NotCountable
            operator, flops, operations = _arithmetic(node, read, result)
        except (KeyError, IndexError, NotCountable):  # no rule, or fewer operands than the rule needs
            label = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            return NodeCost(name, label, "uncounted", stack=stack, output=shape)
        moved, weights = self._bytes(node)
        return NodeCost(name, operator, "counted", flops, operations, moved, weights, stack, shape)

    def _bytes(self, node: Any) -> tuple[int, int]:
        """Return the bytes of all operands and results, each operand once, and how many of them are weights."""
        written = sum(self.tensors[name].bytes for name in node.output if name in self.tensors)
        read = from_weights = 0
        for position, name in enumerate(dict.fromkeys(node.input)):
            if name not in self.tensors:
                continue
            size = self.tensors[name].bytes
            size = min(size, written) if position == 0 and node.op_type in _GATHERS else size
            read += size
            from_weights += size if name in self.initializers else 0
        return written + read, from_weights

    def groups(self) -> tuple[Group, ...]:
        """Return the operators that were inserted before the export, found by the module path of their nodes."""
        metadata = metadata_of(self.proto, self.path) or {}
        sites = [site for recipe in metadata.get("recipes", ()) for site in recipe.get("sites", ())]
        known, members = classes(), defaultdict[tuple[str, type[Operator]], list[Any]](list)
        for position, node in enumerate(self.proto.graph.node):
            for path, written in _stack(node).items():
                if written in known:
                    members[path, known[written]].append(node.name or f"{node.op_type}_{position}")
                    break
        found = []
        for (path, kind), names in members.items():
            site = next((site for site in sites if path.startswith(f"{site['path']}.")), None)
            if site is not None:
                size = {"float16": 2, "bfloat16": 2, "float64": 8}.get(self.dtype, 4)
                found.append(
                    Group(path, kind, tuple(names), 1, site["tokens"], site["channels"], 0, size, as_exported=True)
                )
        return tuple(found)


def _arithmetic(node: Any, read: list[Tensor | None], result: Tensor) -> tuple[str, int, int]:
    """Return the name of the rule that counts a node, its FLOPs and its operations."""
    onnx = onnx_file.import_onnx()
    if node.domain not in ("", "ai.onnx"):
        raise NotCountable
    if node.op_type in MOVES:
        return "cat" if node.op_type == "Concat" else node.op_type.lower(), 0, 0
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    shapes = [tensor.shape if tensor is not None and tensor.floating else None for tensor in read]
    seen = FileNode(shapes, attributes, result.shape)
    if node.op_type == "Resize":
        rule = resized(seen)
        if rule is None:
            return "resize", 0, 0
        return rule, *rules.RULES[rule](Call({}, result.shape))
    if node.op_type == "Sum":
        return "add", 0, (len(shapes) - 1) * prod(result.shape)
    rule, arguments = RULES[node.op_type]
    if not result.floating and all(shape is None for shape in shapes):
        return rule, 0, 0  # arithmetic on sizes and indices is not counted
    flops, operations = rules.RULES[rule](Call(arguments(seen), result.shape))
    return rule, flops, operations


def _inferred(proto: Any, path: Path, batch: int) -> Any:
    """Return the model with a fixed batch and inferred shapes."""
    onnx = onnx_file.import_onnx()
    initial = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in initial]
    metadata = metadata_of(proto, path)
    # Files of cbsurgeon name the batch axis. In others it is the first axis of the first input, and any dynamic first
    # axis.
    axes = metadata.get("batch_inputs", {}) if metadata else {value.name: 0 for value in inputs[:1]}
    usual = usual_sizes(proto)
    for value in inputs:
        batch_axis = axes.get(value.name)
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                if dim.dim_param in usual:
                    dim.dim_value = usual[dim.dim_param]
                    continue
                if axis != (batch_axis or 0):
                    raise _unfit(path, f"dimension {axis} of {value.name} ({dim.dim_param or '?'}) is dynamic")
                dim.dim_value = batch
            elif axis == batch_axis and dim.dim_value != batch:
                raise _unfit(path, f"its batch is fixed to {dim.dim_value}, but --batch is {batch}")
    for tensor in proto.graph.initializer:
        integers = tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
        if integers and prod(tensor.dims) <= _SHAPES_ONLY and onnx.external_data_helper.uses_external_data(tensor):
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except Exception as error:  # it has several classes of errors, for a node with too few inputs for example
        raise onnx_file.not_onnx(path, error) from error


def _unfit(path: Path, why: str) -> UsageError:
    return UsageError(
        "the file cannot be counted at this batch size",
        code="CB-AUDIT-05",
        where=str(path),
        why=why,
        do="give the file's own batch with --batch, or export the model with every other dimension fixed",
    )


def _tensors(proto: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor for every tensor of known shape."""
    onnx = onnx_file.import_onnx()

    def described(shape: Shape, kind: int) -> Tensor:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
        floating = kind in (
            onnx.TensorProto.FLOAT,
            onnx.TensorProto.DOUBLE,
            onnx.TensorProto.FLOAT16,
            onnx.TensorProto.BFLOAT16,
        )
        return Tensor(shape, int(dtype.itemsize), floating)

    for tensor in proto.graph.initializer:
        yield tensor.name, described(tuple(tensor.dims), tensor.data_type)
    for value in (*proto.graph.input, *proto.graph.value_info, *proto.graph.output):
        kind = value.type.tensor_type
        if kind.elem_type and kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            shape = tuple(dim.dim_value for dim in kind.shape.dim)
            if prod(shape) <= LARGEST_COUNT:  # a larger one is damaged, and its nodes are not counted
                yield value.name, described(shape, kind.elem_type)


def _namespace(node: Any) -> str:
    return next((item.value for item in node.metadata_props if item.key == "namespace"), "")


def _stack(node: Any) -> Mapping[str, str]:
    """Return module path → class name, outermost first, as torch.onnx recorded it; empty if it did not."""
    entries = _namespace(node).split("/")[:-1]
    pairs = (re.fullmatch(r"(.*?): (\S+)", entry) for entry in entries)
    return {pair[1]: pair[2] for pair in pairs if pair is not None}
