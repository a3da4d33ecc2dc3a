"""Regions that ``torch.export`` keeps as separate graphs: inline them if that is exact, otherwise report them.

``wrap_with_autocast`` and ``wrap_with_set_grad_enabled`` run their region once. They are inlined, and the casts of
autocast become explicit. ``cond``, ``while_loop``, ``scan`` and ``map`` decide at run time what runs and are kept.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from cbsurgeon.graph import aten

_FIRST_OPERAND = {"wrap_with_autocast": 5, "wrap_with_set_grad_enabled": 2}
"""Index of a region's first input among its arguments; the argument before it is the graph."""

_CASTS = frozenset({"to", "_to_copy", "type_as", "float", "half", "bfloat16", "double", "_assert_tensor_metadata"})


def inline(exported: ExportedProgram) -> bool:
    """Replace every autocast and gradient-mode region by its nodes, in place.

    Returns:
        Whether there were any.
    """
    module = exported.graph_module
    graph, found = module.graph, False
    renamed: dict[str, str] = {}
    while (region := next((node for node in graph.nodes if aten.name(node) in _FIRST_OPERAND), None)) is not None:
        found = True
        _inline(module, region, renamed)
    if not found:
        return False
    for spec in exported.graph_signature.output_specs:
        name = getattr(spec.arg, "name", None)
        while name in renamed:
            name = renamed[name]
            spec.arg.name = name  # type: ignore[union-attr]
    graph.lint()
    module.delete_all_unused_submodules()
    module.recompile()
    return True


def _inline(module: fx.GraphModule, region: fx.Node, renamed: dict[str, str]) -> None:
    """Replace one region by its nodes; they keep the modules that they belong to."""
    graph, first = module.graph, _FIRST_OPERAND[aten.name(region)]
    body, operands = region.args[first - 1], region.args[first:]
    assert isinstance(body, fx.Node)
    inner: fx.GraphModule = getattr(module, str(body.target))
    placeholders = [node for node in inner.graph.nodes if node.op == "placeholder"]
    copies: dict[fx.Node, Any] = dict(zip(placeholders, operands, strict=True))
    with graph.inserting_before(region):
        for node in inner.graph.nodes:
            if node.op in ("placeholder", "output"):
                continue
            if node.op == "get_attr":  # a region inside this one
                name = _free_name(module, str(node.target))
                setattr(module, name, getattr(inner, str(node.target)))
                copies[node] = graph.get_attr(name)
                copies[node].meta = dict(node.meta)
                continue
            copies[node] = _copied(graph, node, copies)
    output = next(node for node in inner.graph.nodes if node.op == "output")
    results = [copies[node] if isinstance(node, fx.Node) else node for node in pytree.tree_leaves(output.args[0])]
    for user in list(region.users):  # a region returns a tuple
        place = user.args[1]
        assert isinstance(place, int)
        result = results[place]
        assert isinstance(result, fx.Node)
        user.replace_all_uses_with(result)
        renamed[user.name] = result.name
        graph.erase_node(user)
    graph.erase_node(region)
    if not body.users:
        graph.erase_node(body)


def _free_name(module: fx.GraphModule, name: str) -> str:
    number, free = 0, name
    while hasattr(module, free):
        number += 1
        free = f"{name}_{number}"
    return free


def _copied(graph: fx.Graph, node: fx.Node, copies: dict[fx.Node, Any]) -> fx.Node:
    """A copy of a region's node, with explicit casts of its inputs to the type that autocast gave them."""
    copied = graph.node_copy(node, lambda source: copies[source])
    wanted = _autocast_type(node)
    if wanted is None:
        return copied
    for source in copied.all_input_nodes:
        value = source.meta.get("val")
        if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != wanted:
            with graph.inserting_before(copied):
                cast = graph.call_function(torch.ops.aten.to.dtype, (source, wanted))
            cast.meta = {**node.meta, "val": value.to(wanted)}
            copied.replace_input_with(source, cast)
    return copied


def _autocast_type(node: fx.Node) -> torch.dtype | None:
    """The type to which autocast cast a node's floating inputs, as the result's type shows; else ``None``."""
    result = next((leaf for leaf in pytree.tree_leaves(node.meta.get("val")) if isinstance(leaf, Tensor)), None)
    if result is None or not result.is_floating_point() or aten.name(node) in _CASTS or "dtype" in node.kwargs:
        return None
    given = [
        value.dtype
        for source in node.all_input_nodes
        if isinstance(value := source.meta.get("val"), Tensor) and value.is_floating_point() and value.dim()
    ]
    if not given or all(dtype == result.dtype for dtype in given):
        return None
    return result.dtype


def unread(graph: fx.Graph) -> Iterator[fx.Node]:
    """Yield the nodes whose region is kept because values decide at run time which code runs."""
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator) and aten.name(node) not in _FIRST_OPERAND:
            yield node


def user_line(node: fx.Node) -> str:
    """Return the line of the user's code that a node comes from, as ``file:line: code``; empty if unknown."""
    for one in (node, *node.users, *node.all_input_nodes):
        lines = [line.strip() for line in str(one.meta.get("stack_trace") or "").splitlines()]
        for number in reversed([number for number, line in enumerate(lines) if line.startswith("File ")]):
            file, _, rest = lines[number].removeprefix("File ").strip('"').partition('", line ')
            if is_user_code(file):
                code = lines[number + 1] if number + 1 < len(lines) else ""
                return f"{file}:{rest.split(',')[0]}: {code}"
    return ""


def raising_line(error: BaseException) -> str:
    """Return the innermost line of the user's code in a traceback, as ``file:line: code``; empty if there is none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_user_code(frame.filename)]
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""


def is_user_code(file: str) -> bool:
    """Whether a file is not generated and not part of torch or of this package."""
    own = str(Path(__file__).parent.parent.parent)
    return not file.startswith(("<", own)) and "/torch/" not in file
