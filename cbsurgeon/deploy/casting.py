"""Casting a captured program to another floating type: 16-bit for export, float64 as a reference."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from cbsurgeon.errors import ExportError
from cbsurgeon.graph import Program
from cbsurgeon.graph import aten as graph_aten
from cbsurgeon.graph.editing import ProgramEditor, shaped

aten = torch.ops.aten

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}

# A mean over thousands of tokens accumulated in a 16-bit type loses its precision and, in float16, can overflow.
# ATen's kernels accumulate in float32; exporters and TensorRT do so only if the graph contains the casts.
_ACCUMULATING = (aten.mean.dim, aten.mean.default)


def cast(program: Program, dtype: torch.dtype, keep: Collection[str] = ()) -> Program:
    """Return the program with weights, inputs and outputs in a 16-bit type.

    Operators that ask for float32 explicitly (an up-cast, a float32 softmax) keep it. An operator with both float32 and
    16-bit operands gets its float32 operands cast down. Means over any axis accumulate in float32.

    Args:
        program: a float32 program.
        dtype: ``torch.float16`` or ``torch.bfloat16``.
        keep: names of nodes that compute in float32. Weights that only they read stay in float32; other nodes read
            their values cast down. May contain inputs and the output node.

    Raises:
        ExportError: an operator does not support the type (CB-EXPORT-06); the error names its node and module path.
    """
    return _Casting(program, dtype, frozenset(keep)).run()


def in_float64(program: Program) -> fx.GraphModule:
    """Return a copy of the program as a module that computes everything in float64, explicit casts included.

    Inputs and outputs are those of the program, with float64 in place of every floating type. The copy needs eight
    bytes per weight.
    """
    module = copy.deepcopy(program.module()).double()
    assert isinstance(module, fx.GraphModule)
    drop_type_assertions(module.graph)
    for node in module.graph.nodes:
        node.args = pytree.tree_map_only(torch.dtype, _widest, node.args)
        node.kwargs = pytree.tree_map_only(torch.dtype, _widest, node.kwargs)
    module.recompile()
    return module


def _widest(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype.is_floating_point else dtype


def drop_type_assertions(graph: fx.Graph) -> None:
    """Remove the dtype assertions that torch.export adds at explicit casts: they state the old types."""
    for node in list(graph.nodes):
        if node.target == aten._assert_tensor_metadata.default:
            graph.erase_node(node)


class _Casting:
    """The state of one cast.

    Types are found by running every operator on fake tensors *with concrete sizes*. The symbolic sizes are shared with
    the original program, in which an operator that compares two of them would specialize the batch.
    """

    def __init__(self, program: Program, dtype: torch.dtype, keep: frozenset[str]) -> None:
        self.editor, self.dtype, self.keep = ProgramEditor(program), dtype, keep
        self.example = program.example
        self.mode = FakeTensorMode()
        self.plain: dict[fx.Node, Any] = {}

    def run(self) -> Program:
        graph = self.editor.graph
        drop_type_assertions(graph)
        for node in list(graph.nodes):
            if node.op == "placeholder":
                self._cast_placeholder(node)
            elif node.op == "call_function":
                self._cast(node)
        self._cast_outputs()
        example = {
            name: tensor.to(self.dtype) if _full(tensor) and name not in self.keep else tensor
            for name, tensor in self.example.items()
        }
        graph.eliminate_dead_code()
        return self.editor.finish(example)

    def _cast_placeholder(self, node: fx.Node) -> None:
        """Convert a weight or an input to the 16-bit type, unless it is kept in float32."""
        plain, weight = pytree.tree_map(self._plain, node.meta.get("val")), self.editor.weights.get(node.name)
        only_kept = bool(node.users) and all(user.name in self.keep for user in node.users)
        if node.name in self.keep or (weight is not None and only_kept):
            self.plain[node] = plain
            return
        if weight is not None and weight.dtype == torch.float32:
            self.editor.replace_weight(node.name, weight.detach().to(self.dtype))
        self._label(node, pytree.tree_map(self._narrow, plain))

    def _plain(self, value: Any) -> Any:
        """Return the value with the concrete sizes of the capture in place of symbols."""
        if isinstance(value, Tensor):
            with self.mode:
                return torch.empty_strided(
                    [_hint(size) for size in value.shape],
                    [_hint(step) for step in value.stride()],
                    dtype=value.dtype,
                    device=value.device,
                )
        return _hint(value)

    def _narrow(self, value: Any) -> Any:
        if not _full(value):
            return value
        with self.mode:
            return value.to(self.dtype)

    def _label(self, node: fx.Node, plain: Any) -> None:
        """Record a node's concrete value, and give its symbolic value the same types."""
        self.plain[node] = plain
        old, spec = pytree.tree_flatten(node.meta.get("val"))
        new = pytree.tree_leaves(plain)
        if len(old) == len(new):
            node.meta["val"] = pytree.tree_unflatten([_retyped(*pair) for pair in zip(old, new, strict=True)], spec)
        node.meta.pop("tensor_meta", None)

    def _compute(self, node: fx.Node) -> Any:
        args, kwargs = pytree.tree_map_only(fx.Node, lambda operand: self.plain[operand], (node.args, node.kwargs))
        assert callable(node.target)
        with self.mode, torch.no_grad():
            return node.target(*args, **kwargs)

    def _cast(self, node: fx.Node) -> None:
        if node.name in self.keep:
            self._move_operands(node, self.dtype, torch.float32, list(node.all_input_nodes))
        else:
            self._clamp_literals(node)
            kept = [operand for operand in node.all_input_nodes if operand.name in self.keep]
            self._move_operands(node, torch.float32, self.dtype, kept)
            self._match_operand_types(node)
        source = node.args[0] if node.args else None
        if node.target in _ACCUMULATING and isinstance(source, fx.Node) and self._type(source) == self.dtype:
            self._accumulate(node, source)
            return
        try:
            plain = self._compute(node)
        except Exception as error:
            raise _no_such_form(node, self.dtype, error) from error
        self._label(node, plain)

    def _type(self, node: fx.Node) -> torch.dtype | None:
        value = self.plain.get(node)
        return value.dtype if isinstance(value, Tensor) else None

    def _to(self, node: fx.Node, dtype: torch.dtype) -> fx.Node:
        """Insert a cast of a node at the current insertion point."""
        made = self.editor.call(aten.to.dtype, (node, dtype), shaped(node.meta["val"], dtype=dtype), like=node)
        with self.mode:
            self.plain[made] = self.plain[node].to(dtype)
        return made

    def _match_operand_types(self, node: fx.Node) -> None:
        """Cast float32 operands to the 16-bit type if another operand has that type."""
        types = {operand: self._type(operand) for operand in node.all_input_nodes}
        if self.dtype in types.values() and torch.float32 in types.values():
            self._move_operands(node, torch.float32, self.dtype, list(types))

    def _move_operands(self, node: fx.Node, old: torch.dtype, new: torch.dtype, operands: list[fx.Node]) -> None:
        """Cast those operands of a node that have the type ``old`` to ``new``."""
        for operand in operands:
            if self._type(operand) == old:
                with self.editor.graph.inserting_before(node):
                    moved = self._to(operand, new)
                node.replace_input_with(operand, moved)

    def _accumulate(self, node: fx.Node, source: fx.Node) -> None:
        with self.editor.graph.inserting_before(node):
            up = self._to(source, torch.float32)
        node.replace_input_with(source, up)
        self._label(node, self._compute(node))
        readers = list(node.users)
        with self.editor.graph.inserting_after(node):
            down = self._to(node, self.dtype)
        for reader in readers:
            reader.replace_input_with(node, down)

    def _clamp_literals(self, node: fx.Node) -> None:
        """Clamp literals such as float32's minimum (in attention masks): 0 times infinity would be NaN."""
        limit = torch.finfo(self.dtype).max

        def clamp(value: float) -> float:
            return max(-limit, min(limit, value)) if math.isfinite(value) else value

        node.args = pytree.tree_map_only(float, clamp, node.args)

    def _cast_outputs(self) -> None:
        """Cast outputs that are still float32 to the 16-bit type."""
        output = self.editor.graph.output_node()
        if output.name not in self.keep:
            self._move_operands(output, torch.float32, self.dtype, list(output.all_input_nodes))


def _no_such_form(node: fx.Node, dtype: torch.dtype, error: Exception) -> ExportError:
    path = graph_aten.path(node)
    return ExportError(
        f"the model cannot be cast to {str(dtype).removeprefix('torch.')}",
        code="CB-EXPORT-06",
        where=f"node {node.name} ({node.target})" + (f", in {path}" if path else ""),
        why=" ".join(str(error).split())[:300],
        do="export in float32, or the other 16-bit type",
    )


def _hint(value: Any) -> Any:
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return value.node.hint
    return value


def _full(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float32


def _retyped(old: Any, new: Any) -> Any:
    if not isinstance(old, Tensor) or not isinstance(new, Tensor) or old.dtype == new.dtype:
        return old
    return shaped(old, dtype=new.dtype)
