"""Counting the nodes of a captured graph: each node is counted, free, or listed as not counted."""

from __future__ import annotations

import operator
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from typing import Any

import sympy
import torch
from torch import Tensor, fx

from cbsurgeon.checks.cost.rules import GATHERS, MAYBE_COPIES, MOVES, RULES, VIEWS, Call, NotCountable, Shape
from cbsurgeon.graph import aten

_SECOND_CALL = re.compile(r"@\d+")  # torch.export appends this to a module's second call
_NO_MODULE = "_empty_nn_module_stack"  # torch.export's entry for nodes that it added
_WRAPPERS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")


@dataclass(frozen=True)
class NodeCost:
    """The cost of one node of the graph.

    Attributes:
        name: name of the node.
        operator: ATen name without namespace and overload, or the full name of a foreign operator.
        kind: ``counted``, ``free`` or ``uncounted``.
        flops, operations: arithmetic in both conventions (see ``rules``).
        bytes: bytes read and written.
        weights: the part of ``bytes`` that is parameters and buffers.
        stack: module path → class name, outermost first.
        output: shape of the result; empty if it is not a tensor.
    """

    name: str
    operator: str
    kind: str
    flops: int = 0
    operations: int = 0
    bytes: int = 0
    weights: int = 0
    stack: Mapping[str, str] = field(default_factory=dict)
    output: Shape = ()


class Sizes:
    """Concrete sizes of symbolic shapes at one batch size.

    The expressions are evaluated instead of the symbolic numbers, so no guard is added to the graph.

    Args:
        symbols: symbol → value; other symbols have the value they were captured with.
    """

    def __init__(self, symbols: Mapping[Any, int]) -> None:
        self._symbols = {symbol: sympy.Integer(value) for symbol, value in symbols.items()}
        self._known: dict[Any, int] = {}

    def number(self, size: int | torch.SymInt) -> int:
        """Return one size as a number."""
        if isinstance(size, int):
            return size
        expression = size.node.expr
        if expression not in self._known:
            value = expression.xreplace(self._symbols)
            environment = size.node.shape_env
            if value.free_symbols and environment is not None:
                hints = environment.backed_var_to_val
                value = value.xreplace({symbol: hints[symbol] for symbol in value.free_symbols if symbol in hints})
            self._known[expression] = int(value)
        return self._known[expression]

    def shape(self, tensor: Tensor) -> Shape:
        """Return the shape of a tensor."""
        return tuple(self.number(size) for size in tensor.shape)

    def strides(self, tensor: Tensor) -> Shape:
        """Return the strides of a tensor."""
        return tuple(self.number(stride) for stride in tensor.stride())

    def stored(self, tensor: Tensor) -> int:
        """Return the number of stored elements; an expanded axis (stride 0) counts once."""
        return prod(
            size for size, stride in zip(self.shape(tensor), self.strides(tensor), strict=True) if stride or size == 0
        )


def batch_symbols(graph: fx.Graph, batch: int) -> dict[Any, int]:
    """Map each symbol that is the size of axis 0 of an input, or of another axis if none is, to ``batch``."""
    found: tuple[dict[Any, int], dict[Any, int]] = ({}, {})
    for node in graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" else None
        for axis, size in enumerate(value.shape if isinstance(value, Tensor) else ()):
            if isinstance(size, torch.SymInt) and size.node.expr.is_symbol:
                found[axis > 0][size.node.expr] = batch
    return found[0] or found[1]


def node_costs(module: fx.GraphModule, sizes: Sizes, weights: frozenset[str]) -> Iterator[NodeCost]:
    """Yield the cost of each call in a graph, in order.

    Args:
        module: the graph with its sub-graphs.
        sizes: the values of symbolic sizes.
        weights: names of the placeholders that are parameters, buffers and constants.
    """
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        inner = _wrapped(module, node)
        if inner is not None:
            yield from (
                replace(cost, name=f"{node.name}/{cost.name}") for cost in node_costs(inner, sizes, frozenset())
            )
        else:
            yield _node_cost(node, sizes, weights)


def _wrapped(module: fx.GraphModule, node: fx.Node) -> fx.GraphModule | None:
    """Return the sub-graph of a node that only sets a mode (gradients, autocast) around it, else ``None``."""
    if getattr(node.target, "__name__", "") not in _WRAPPERS:
        return None
    for argument in node.args:
        if isinstance(argument, fx.Node) and argument.op == "get_attr":
            body = module.get_submodule(str(argument.target))
            return body if isinstance(body, fx.GraphModule) else None
    return None


def _node_cost(node: fx.Node, sizes: Sizes, weights: frozenset[str]) -> NodeCost:
    name, stack = operator_name(node), module_stack(node)
    outputs = _tensors(node.meta.get("val"))
    shape = sizes.shape(outputs[0]) if outputs else ()
    if _is_free(node, name, outputs, sizes):
        return NodeCost(node.name, name, "free", stack=stack, output=shape)
    copies = name in MOVES or name in MAYBE_COPIES
    try:
        rule = (lambda _: (0, 0)) if copies else RULES[name]
        flops, operations = rule(_call(node, sizes, shape)) if _computes(outputs[0]) else (0, 0)
    except (KeyError, NotCountable):
        return NodeCost(node.name, name, "uncounted", stack=stack, output=shape)
    moved, read_weights = _bytes(node, name, outputs, sizes, weights)
    return NodeCost(node.name, name, "counted", flops, operations, moved, read_weights, stack, shape)


def operator_name(node: fx.Node) -> str:
    """Return an operator's short name: ``aten.add_.Tensor`` → ``add``; those of other libraries keep the full name."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return aten.name(node) if target.namespace == "aten" else str(target._schema.name)
    return getattr(target, "__name__", str(target))


def module_stack(node: fx.Node) -> dict[str, str]:
    """Return module path → class name for the modules that contain a node, outermost first."""
    entries = (node.meta.get("nn_module_stack") or {}).values()
    return {
        _SECOND_CALL.sub("", path): kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        for path, kind in entries
        if not path.startswith(_NO_MODULE)
    }


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [item for item in value if isinstance(item, Tensor)] if isinstance(value, (tuple, list)) else []


def _computes(tensor: Tensor) -> bool:
    """Return whether arithmetic on a tensor is counted; indices and masks cost only their bytes."""
    return tensor.is_floating_point() or tensor.is_complex()


def _is_free(node: fx.Node, name: str, outputs: list[Tensor], sizes: Sizes) -> bool:
    if (
        node.target is operator.getitem
        or name in VIEWS
        or (not outputs and not isinstance(node.target, torch._ops.HigherOrderOperator))
    ):
        return True
    if name in ("dropout", "feature_dropout"):
        return not node.args[2]
    if name not in MAYBE_COPIES:
        return False
    source = node.args[0].meta["val"] if isinstance(node.args[0], fx.Node) else outputs[0]
    return not _copies(source, outputs[0], sizes)


def _copies(source: Tensor, result: Tensor, sizes: Sizes) -> bool:
    """Return whether a reshape, ``contiguous`` or ``to`` copies instead of returning a view."""
    if source.dtype != result.dtype:
        return True
    layout = torch.empty_strided(sizes.shape(source), sizes.strides(source), device="meta")
    if sizes.shape(source) == sizes.shape(result):
        return sizes.strides(source) != sizes.strides(result) and not layout.is_contiguous()
    try:
        layout.view(sizes.shape(result))
    except RuntimeError:
        return True
    return False


def _call(node: fx.Node, sizes: Sizes, output: Shape) -> Call:
    def concrete(value: Any) -> Any:
        if isinstance(value, fx.Node):
            held = value.meta.get("val")
            if isinstance(held, Tensor):
                return sizes.shape(held) if _computes(held) else None
            return held
        return [concrete(item) for item in value] if isinstance(value, (tuple, list)) else value

    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    values = {name: concrete(value) for name, value in zip(names, node.args, strict=False)}
    values.update({name: concrete(value) for name, value in node.kwargs.items()})
    return Call(values, output)


def _bytes(node: fx.Node, name: str, outputs: list[Tensor], sizes: Sizes, weights: frozenset[str]) -> tuple[int, int]:
    """Return the bytes of all operands and results, each operand once, and how many of them are weights."""
    written = sum(prod(sizes.shape(tensor)) * tensor.element_size() for tensor in outputs)
    read = from_weights = 0
    for position, source in enumerate(node.all_input_nodes):
        for tensor in _tensors(source.meta.get("val")):
            size = sizes.stored(tensor) * tensor.element_size()
            size = min(size, written) if position == 0 and name in GATHERS else size
            read += size
            from_weights += size if _is_weight(source, weights) else 0
    return written + read, from_weights


def _is_weight(node: fx.Node, weights: frozenset[str]) -> bool:
    """Return whether a value is a weight or a view of one."""
    while node.op == "call_function" and operator_name(node) in VIEWS and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node.op == "get_attr" or node.name in weights


def blocks(stacks: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the block of each module stack: its innermost module that a container repeats, such as ``blocks.3``.

    A container is a ``Sequential``, or a ``ModuleList`` or ``ModuleDict`` (which are never called, so their path is
    missing from the stack). The module must have children, and its container another module of the same class. If there
    is no such module, the block is the top-level module.
    """
    children: dict[str, set[str]] = defaultdict(set)
    kinds: dict[str, str] = {}
    for stack in stacks:
        kinds.update(stack)
        for outer, inner in pairwise(stack):
            children[outer].add(inner)
    crowd = Counter((_parent(path), kind) for path, kind in kinds.items())

    def is_block(path: str, caller: str) -> bool:
        listed = _parent(path) != caller or kinds[caller].endswith("container.Sequential")
        return bool(children[path]) and listed and crowd[_parent(path), kinds[path]] > 1

    named = []
    for stack in stacks:
        found = [path for caller, path in pairwise(stack) if is_block(path, caller)]
        deepest = ["", *stack][-1]
        named.append(found[-1] if found else deepest.split(".")[0] or "(model)")
    return named


def _parent(path: str) -> str:
    return path.rpartition(".")[0]
