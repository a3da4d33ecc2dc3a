"""Reading the residual stream of a model, from a program or an ONNX file, while it runs.

A *point* of the stream is a residual add: a sum of two tensors of equal shape, neither of them a weight. The sum inside
Context Broadcasting is not a point, because the mean has axes of size one. A point's key is the path of its module and
its number among that module's points. Inserting, folding or removing an operator does not change the keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.export._tree_utils import reorder_kwargs
from torch.utils import _pytree as pytree

from cbsurgeon.checks.parity.matching import renamed
from cbsurgeon.checks.parity.reference import Named
from cbsurgeon.deploy.casting import DTYPES, cast, in_float64
from cbsurgeon.deploy.onnx import file as onnx_file
from cbsurgeon.deploy.onnx.metadata import module_path
from cbsurgeon.deploy.runtimes.onnx_runtime import OnnxRuntime
from cbsurgeon.errors import UsageError
from cbsurgeon.graph import Program, aten

_ADDITIONS = {torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor}


@dataclass(frozen=True)
class Key:
    """One point of the residual stream.

    Attributes:
        path: path of its module, empty at the top level.
        place: its number among that module's points.
    """

    path: str
    place: int


def number(points: Iterable[tuple[str, str]]) -> dict[Key, str]:
    """Return key → name for points given as (module path, name) in graph order."""
    seen: Counter[str] = Counter()
    keys: dict[Key, str] = {}
    for path, name in points:
        keys[Key(path, seen[path])] = name
        seen[path] += 1
    return keys


def program_points(program: Program) -> dict[Key, str]:
    """Return the points of a program: key → node name."""
    return number((aten.path(node), node.name) for node in program.exported.graph.nodes if _is_point(node))


def _is_point(node: fx.Node) -> bool:
    if node.target not in _ADDITIONS or len(node.args) != 2:
        return False
    operands = [operand for operand in node.args if isinstance(operand, fx.Node)]
    shapes = [_shape(operand) for operand in operands]
    return len(operands) == 2 and shapes[0] is not None and shapes[0] == shapes[1] and len(shapes[0]) > 1


def _shape(node: fx.Node) -> tuple[str, ...] | None:
    value = node.meta.get("val")
    return tuple(str(size) for size in value.shape) if isinstance(value, Tensor) else None


def stream_after(program: Program, name: str) -> str | None:
    """Return the name of the first residual add that depends on a node; ``None`` if there is none."""
    nodes = {node.name: node for node in program.exported.graph.nodes}
    pending, seen = [nodes[name]] if name in nodes else [], set()
    while pending:
        node = pending.pop(0)
        if node in seen:
            continue
        seen.add(node)
        if _is_point(node):
            return str(node.name)
        pending += sorted(node.users)
    return None


def onnx_points(path: Path) -> dict[Key, str]:
    """Return the points of an ONNX file written by cbsurgeon or ``torch.onnx``: key → value name."""
    onnx = onnx_file.import_onnx()
    proto = onnx_file.load(path)
    if not proto.graph.value_info:
        proto = onnx.shape_inference.infer_shapes(proto)
    weights = {tensor.name for tensor in proto.graph.initializer}
    dims = {
        value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output)
    }
    points = []
    for node in proto.graph.node:
        shapes = [dims.get(name) for name in node.input]
        same = len(shapes) == 2 and shapes[0] is not None and shapes[0] == shapes[1] and len(shapes[0]) > 1
        if node.op_type == "Add" and same and not weights & set(node.input):
            notes = {item.key: item.value for item in node.metadata_props}
            points.append((module_path(notes), node.output[0]))
    return number(points)


class ProgramStream:
    """Reads points of the residual stream while a program runs, in its own or another floating type."""

    def __init__(self, program: Program, dtype: str | None = None) -> None:
        self.program, self.points = program, program_points(program)
        if dtype == "float64":
            self.module: Any = in_float64(program)
        else:
            self.program = cast(program, DTYPES[dtype]) if dtype in DTYPES else program
            self.module = self.program.module()
        self.dtype = torch.float64 if dtype == "float64" else None

    def read(self, inputs: Named, keys: Sequence[Key]) -> dict[Key, Tensor]:
        """Run the program and return the values of some points.

        Raises:
            UsageError: the program has another number of inputs (CB-RUN-01).
        """
        named, wanted = renamed(inputs, self.program.input_names), self.program.input_names
        if set(named) != set(wanted):
            raise UsageError(
                "the two models have different inputs",
                code="CB-RUN-01",
                where=f"inputs {', '.join(wanted)}",
                why=f"the inputs of the other model are {', '.join(named)}",
                do="compare models with the same inputs, in the same order",
            )
        fitted = {
            name: tensor.to(self.dtype or self.program.example[name].dtype) if tensor.is_floating_point() else tensor
            for name, tensor in named.items()
        }
        args, kwargs = self.program.arguments(fitted)
        flat = pytree.tree_leaves((args, reorder_kwargs(dict(kwargs), self.program.exported.call_spec.in_spec)))
        recorder = _Recorder(self.module, {self.points[key] for key in keys})
        with torch.no_grad():
            recorder.run(*flat, enable_io_processing=False)
        return {key: recorder.values[self.points[key]] for key in keys}


class _Recorder(fx.Interpreter):
    """Runs a graph and records some of its values."""

    def __init__(self, module: fx.GraphModule, wanted: set[str]) -> None:
        super().__init__(module)
        self.wanted, self.values = wanted, dict[str, Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.wanted:
            self.values[n.name] = value.detach()
        return value


class OnnxStream:
    """Reads points of the residual stream of an ONNX file, by adding them to the outputs of a copy in memory."""

    def __init__(self, path: str | Path, device: str = "cpu") -> None:
        self.path, self.device = Path(path), device
        self.points = onnx_points(self.path)

    def read(self, inputs: Named, keys: Sequence[Key]) -> dict[Key, Tensor]:
        """Run the file and return the values of some points."""
        names = [self.points[key] for key in keys]
        with OnnxRuntime(self.path, self.device, extra_outputs=names) as runtime:
            outputs = runtime.run(renamed(inputs, [port.name for port in runtime.inputs]))
        return {key: outputs[name].cpu() for key, name in zip(keys, names, strict=True)}


Stream = ProgramStream | OnnxStream
