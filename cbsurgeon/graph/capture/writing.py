"""Operators that write into their operands: which tensor they change, and copies of inputs that would be changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree as pytree

from cbsurgeon.graph import aten


def writes(node: fx.Node) -> bool:
    """Whether an operator writes into one of its operands."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def storage(node: fx.Node) -> fx.Node:
    """The tensor whose memory a node's result may share, through views and in-place operators."""
    while node.args and isinstance(node.args[0], fx.Node):
        if not (writes(node) or aten.name(node) in aten.LAYOUT | aten.CROP | aten.SPLIT):
            break
        node = node.args[0]
    return node


def spare_inputs(exported: ExportedProgram) -> None:
    """Copy each input that the graph writes into, in place: a run must not change the caller's tensors."""
    graph = exported.graph_module.graph
    written = {storage(node) for node in graph.nodes if writes(node)}
    given = {
        spec.arg.name
        for spec in exported.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument)
    }
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for node in inputs:
        value = node.meta.get("val")
        if node not in written or node.name not in given or not isinstance(value, Tensor):
            continue
        with graph.inserting_after(inputs[-1]):
            copy = graph.call_function(torch.ops.aten.clone.default, (node,))
        copy.meta = {**node.meta, "val": value.clone()}
        node.replace_all_uses_with(copy, delete_user_cb=lambda user, copy=copy: user is not copy)
    exported.graph_module.recompile()


def copied(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments with a copy of every tensor, for a module that may write into its inputs."""
    made: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map_only(Tensor, torch.clone, (args, dict(kwargs)))
    return made
