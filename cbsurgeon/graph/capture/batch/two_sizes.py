"""Merge captures at two batch sizes into one program for every size, if forward() turns the batch into a number.

``int(x.shape[0])`` makes ``torch.export`` refuse a symbolic batch. Captured at two fixed sizes, such a model gives two
graphs that differ only in numbers. Every number that differs is replaced by a multiple of the batch size plus a
constant, and the result is captured again with a symbolic batch.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from cbsurgeon.graph.capture.batch.axis import Inputs

_KEPT = ("nn_module_stack", "stack_trace", "torch_fn", "custom")


class Unlike(Exception):
    """The two captures differ in more than numbers that depend on the batch; the message says where."""


def merged(
    first: ExportedProgram, second: ExportedProgram, sizes: tuple[int, int], shapes: Any, inputs: Inputs
) -> ExportedProgram:
    """Return one program with a symbolic batch that computes what both captures compute.

    Args:
        first, second: the captures.
        sizes: their batch sizes.
        shapes: which axes of the inputs are the batch, as ``dynamic_shapes`` without names: leaves are ``{axis: ...}``
            or ``None``.
        inputs: positional and keyword inputs of the first capture.

    Raises:
        Unlike: the captures cannot be merged.
    """
    _same_constants(first, second)
    module, other = first.module(check_guards=False), second.module(check_guards=False)
    assert isinstance(module, fx.GraphModule) and isinstance(other, fx.GraphModule)
    writer = _Writer(module, sizes, shapes)
    ours, theirs = list(module.graph.nodes), list(other.graph.nodes)
    if len(ours) != len(theirs):
        raise Unlike(f"there are {len(ours)} steps for a batch of {sizes[0]} and {len(theirs)} for one of {sizes[1]}")
    for node, twin in zip(ours, theirs, strict=True):
        if node.op != twin.op or str(node.target) != str(twin.target):
            raise Unlike(f"{node.name} is {node.target} for one batch and {twin.target} for the other")
        if node.op != "output":
            writer.rewrite(node, twin)
    module.graph.lint()
    module.recompile()
    args, kwargs = inputs
    with torch.no_grad():
        result = torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    _keep_meta(module.graph, result.graph)
    return result


def confirm(
    first: ExportedProgram, second: ExportedProgram, third: ExportedProgram, sizes: tuple[int, int, int]
) -> None:
    """Check that a third capture, at a much larger batch, is what the numbers of the first two predict.

    Code such as ``if int(x.shape[0]) > 16`` does not show between two small sizes.

    Raises:
        Unlike: the third capture differs from the prediction.
    """
    graphs = [one.module(check_guards=False).graph for one in (first, second, third)]
    if len({len(graph.nodes) for graph in graphs}) > 1:
        raise Unlike(f"there are other steps for a batch of {sizes[2]}")
    for a, b, c in zip(*(graph.nodes for graph in graphs), strict=True):
        if a.op != c.op or str(a.target) != str(c.target):
            raise Unlike(f"{a.name} is {a.target} for a batch of {sizes[0]} and {c.target} for one of {sizes[2]}")
        if a.op not in ("placeholder", "output"):
            numbers = (pytree.tree_leaves((node.args, dict(node.kwargs))) for node in (a, b, c))
            for small, next_one, large in zip(*numbers, strict=False):
                if not _on_a_line(small, next_one, large, sizes):
                    raise Unlike(
                        f"{a.name} ({a.target}) takes {small} for a batch of {sizes[0]}, {large} for {sizes[2]}"
                    )


def _on_a_line(small: Any, next_one: Any, large: Any, sizes: tuple[int, int, int]) -> bool:
    if isinstance(small, fx.Node) or not isinstance(small, int | float) or small != small:
        return True
    if not isinstance(large, int | float) or not isinstance(next_one, int | float):
        return False
    return bool((large - small) * (sizes[1] - sizes[0]) == (next_one - small) * (sizes[2] - sizes[0]))


def _is_axes(leaf: Any) -> bool:
    return leaf is None or (isinstance(leaf, dict) and all(isinstance(axis, int) for axis in leaf))


def _same_constants(first: ExportedProgram, second: ExportedProgram) -> None:
    for name, tensor in first.constants.items():
        twin = second.constants.get(name)
        if isinstance(tensor, Tensor) and not (isinstance(twin, Tensor) and torch.equal(tensor, twin)):
            raise Unlike(f"the constant {name} depends on the batch")


class _Writer:
    """Replaces numbers that depend on the batch by multiples of the batch size."""

    def __init__(self, module: fx.GraphModule, sizes: tuple[int, int], shapes: Any) -> None:
        self._graph, self._sizes = module.graph, sizes
        self._shapes = pytree.tree_leaves(shapes, is_leaf=_is_axes)
        self._known: dict[tuple[int, int], fx.Node] = {}
        self._batch: fx.Node | None = None

    def rewrite(self, node: fx.Node, twin: fx.Node) -> None:
        """Replace the numbers of one node that differ from those of the same node at the other batch size."""
        if node.op == "placeholder":
            return
        ours, spec = pytree.tree_flatten((node.args, dict(node.kwargs)))
        theirs, other = pytree.tree_flatten((twin.args, dict(twin.kwargs)))
        if spec != other:
            raise Unlike(f"{node.name} has other arguments")
        changed = [self._number(node, a, b) for a, b in zip(ours, theirs, strict=True)]
        if any(a is not b for a, b in zip(changed, ours, strict=True)):
            args, kwargs = pytree.tree_unflatten(changed, spec)
            node.args, node.kwargs = tuple(args), kwargs

    def _number(self, node: fx.Node, ours: Any, theirs: Any) -> Any:
        if isinstance(ours, fx.Node) or ours == theirs or (ours != ours and theirs != theirs):
            return ours
        exact = isinstance(ours, int | float) and isinstance(theirs, int | float) and not isinstance(ours, bool)
        times, rest = divmod(theirs - ours, self._sizes[1] - self._sizes[0]) if exact else (0, 1)
        if rest or times < 1 or ours != int(ours):
            raise Unlike(f"{node.name} ({node.target}) takes {ours} for one batch and {theirs} for the other")
        return self._multiple(int(times), int(ours - times * self._sizes[0]))

    def _multiple(self, times: int, more: int) -> fx.Node:
        if (times, more) not in self._known:
            batch = self._size()
            last = list(self._known.values())[-1] if self._known else batch
            with self._graph.inserting_after(last):
                found = self._graph.call_function(operator.mul, (batch, times))
            if more:
                with self._graph.inserting_after(found):
                    found = self._graph.call_function(operator.add, (found, more))
            self._known[times, more] = found
        return self._known[times, more]

    def _size(self) -> fx.Node:
        """The node of the batch size, taken from the first input that has a batch axis."""
        if self._batch is None:
            inputs = [node for node in self._graph.nodes if node.op == "placeholder"]
            found = ((node, axes) for node, axes in zip(inputs, self._shapes, strict=True) if axes is not None)
            source, axes = next(found)
            with self._graph.inserting_after(inputs[-1]):
                self._batch = self._graph.call_function(torch.ops.aten.sym_size.int, (source, min(axes)))
        return self._batch


def _keep_meta(before: fx.Graph, after: fx.Graph) -> None:
    """Copy the module stacks of the first capture to the program that was captured again."""
    old, new = (
        [node for node in graph.nodes if node.op == "call_function" and _is_step(node)] for graph in (before, after)
    )
    if [node.target for node in old] != [node.target for node in new]:
        raise Unlike("captured again, the program has other steps")
    for one, two in zip(old, new, strict=True):
        for key in _KEPT:
            if key in one.meta:
                two.meta[key] = one.meta[key]


def _is_step(node: fx.Node) -> bool:
    """Whether a node computes a tensor. Nodes of sizes and assertions differ between captures."""
    name = str(node.target)
    return isinstance(node.target, torch._ops.OpOverload) and not any(
        part in name for part in ("sym_", "_assert", "_guards")
    )
