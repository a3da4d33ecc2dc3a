"""Operators of ours that already stand in a program, and the program as it is without them.

A program is read as if its operators were not there: then the same blocks are found before and after an insertion,
whatever the operator does, and an operator is an occupant of the site whose tensor it takes.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputKind, OutputSpec, TensorArgument

from cbsurgeon.graph.block import Block, Site
from cbsurgeon.graph.program import Program
from cbsurgeon.operators.registry import classes

ON_OUTPUT = "context_broadcast"
"""Name of the child module whose operator is applied to the parent's output."""

ON_INPUT = "context_broadcast_input"
"""Name of the child module whose operator is applied to the parent's input."""

MARK = "cbsurgeon"
"""Key in ``node.meta["custom"]`` that marks a node written into a program; it survives saving."""


@dataclass(frozen=True)
class Occupant:
    """One call of an operator in a graph: a step from one tensor to one of the same shape.

    Attributes:
        op: its name.
        path: module path, which its parameters' names begin with.
        nodes: its nodes, in graph order.
        source: the node it is applied to.
        result: the node that is read in its place.
    """

    op: str
    path: str
    nodes: tuple[fx.Node, ...]
    source: fx.Node
    result: fx.Node

    @property
    def readers(self) -> frozenset[str]:
        """Names of the nodes that read the result."""
        inside = set(self.nodes)
        return frozenset(user.name for user in self.result.users if user not in inside)


def occupants(exported: ExportedProgram, graph: fx.Graph | None = None) -> list[Occupant]:
    """Every operator in a program, in graph order.

    A node belongs to one when it carries our mark, or when its module is an attached operator: an ``Operator`` class,
    or a child under the name that attaching gives. What does not map one tensor to one of its shape is no operator.

    Args:
        exported: the program.
        graph: a copy of its graph to look in instead.
    """
    given = {
        spec.arg.name
        for spec in exported.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument)
    }
    names = {path: kind.name for path, kind in classes().items()}
    members: dict[tuple[str, object], list[fx.Node]] = defaultdict(list)
    described: dict[tuple[str, object], tuple[str, Mapping[str, Any]]] = {}
    for node in (graph or exported.graph).nodes:
        known = _belongs(node, names) if node.op == "call_function" else None
        if known is not None:
            path, call, op, mark = known
            members[path, call].append(node)
            described[path, call] = (op, mark)
    found = (_occupant(*described[key], key[0], nodes, given) for key, nodes in members.items())
    return [occupant for occupant in found if occupant is not None]


def mark_of(node: fx.Node) -> Mapping[str, Any]:
    """What was written on a node when its operator was put into a program; empty for other nodes."""
    mark: Mapping[str, Any] = (node.meta.get("custom") or {}).get(MARK) or {}
    return mark


def _belongs(node: fx.Node, names: Mapping[str, str]) -> tuple[str, object, str, Mapping[str, Any]] | None:
    """Path, call, name and mark of the operator a node belongs to."""
    if mark := mark_of(node):
        return mark["site"], mark["call"], mark["op"], mark
    for call, (path, kind) in (node.meta.get("nn_module_stack") or {}).items():
        written = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        plain = path.split("@")[0]
        if written in names or plain.rpartition(".")[2] in (ON_OUTPUT, ON_INPUT):
            return plain, call, names.get(written, written), {}
    return None


def _occupant(
    op: str, mark: Mapping[str, Any], path: str, nodes: list[fx.Node], given: Collection[str]
) -> Occupant | None:
    inside = set(nodes)
    results = [node for node in nodes if any(user not in inside for user in node.users)]
    if len(results) != 1 or not isinstance(results[0].meta.get("val"), Tensor):
        return None
    shape = results[0].meta["val"].shape
    outside = dict.fromkeys(source for node in nodes for source in node.all_input_nodes if source not in inside)
    sources = [
        source
        for source in outside
        if (source.op == "call_function" or source.name in given)
        and isinstance(value := source.meta.get("val"), Tensor)
        and [str(size) for size in value.shape] == [str(size) for size in shape]
    ]
    marked = [source for source in sources if source.name == mark.get("source")]
    if len(marked or sources) != 1:
        return None
    return Occupant(op, path, tuple(nodes), (marked or sources)[0], results[0])


def without(program: Program) -> tuple[Program, list[Occupant]]:
    """The program with every operator bypassed, and what stood there (nodes of the program as it was given).

    The operators' parameters stay in the signature, unread. A program without operators is returned as it is.
    """
    standing = occupants(program.exported)
    if not standing:
        return program, []
    graph = copied(program.exported.graph)
    renamed = bypass(graph, occupants(program.exported, graph))
    signature = program.exported.graph_signature
    return program.replace(rebuilt(program.exported, graph, signature.input_specs, {}, renamed)), standing


def copied(graph: fx.Graph) -> fx.Graph:
    """A copy of a graph with the same names; ``deepcopy`` renames nodes called like a Python built-in (``input``)."""
    other = copy.deepcopy(graph)
    keep_names(graph, other)
    return other


def keep_names(graph: fx.Graph, copy_of_it: fx.Graph) -> None:
    """Give the nodes of a graph's copy the names of the original."""
    for old, new in zip(graph.nodes, copy_of_it.nodes, strict=True):
        if new.name != old.name:
            new.name = old.name


def bypass(graph: fx.Graph, standing: list[Occupant]) -> dict[str, str]:
    """Take operators out of a graph, in place.

    Returns:
        the old and the new name of every result that the graph may have returned.
    """
    renamed: dict[str, str] = {}
    for occupant in reversed(standing):  # one applied to another's result goes first
        occupant.result.replace_all_uses_with(occupant.source)
        renamed[occupant.result.name] = occupant.source.name
        for node in reversed(occupant.nodes):
            graph.erase_node(node)
    return {old: _last(new, renamed) for old, new in renamed.items()}


def _last(name: str, renamed: Mapping[str, str]) -> str:
    while name in renamed:
        name = renamed[name]
    return name


def rebuilt(
    exported: ExportedProgram,
    graph: fx.Graph,
    inputs: list[Any],
    state: Mapping[str, Any],
    renamed: Mapping[str, str],
) -> ExportedProgram:
    """An exported program around an edited copy of its graph, validated by torch's own verifier.

    Args:
        exported: the program the graph was copied from.
        graph: the edited copy.
        inputs: specifications of its placeholders.
        state: its parameters and buffers; empty for those of ``exported``.
        renamed: nodes that were returned → nodes that are returned now.
    """
    graph.lint()
    outputs = [
        OutputSpec(spec.kind, TensorArgument(renamed[spec.arg.name]), spec.target)
        if isinstance(spec.arg, TensorArgument) and spec.arg.name in renamed
        else spec
        for spec in exported.graph_signature.output_specs
    ]
    module = fx.GraphModule(exported.graph_module, graph)
    module.meta = dict(exported.graph_module.meta)
    return ExportedProgram(
        root=module,
        graph=module.graph,
        graph_signature=ExportGraphSignature(list(inputs), outputs),
        state_dict=dict(state) or exported.state_dict,
        range_constraints=exported.range_constraints,
        module_call_graph=exported.module_call_graph,
        example_inputs=exported.example_inputs,
        constants=exported.constants,
        # A captured graph may write in place; torch's default verifier takes functional graphs only.
        verifiers=exported.verifiers,
    )


def occupied(block: Block, standing: list[Occupant]) -> Block:
    """The block with the operators that stand at its sites."""
    return replace(block, sites={position: _occupied(site, standing) for position, site in block.sites.items()})


def _occupied(site: Site, standing: list[Occupant]) -> Site:
    for use in site.uses:
        for occupant in standing:
            # An operator on another's result takes the same tensor of the bare graph.
            if _base(occupant, standing).name != use.value:
                continue
            if not use.consumers or occupant.readers & set(use.consumers) or _feeds(occupant, standing):
                return replace(site, occupied=occupant.op)
    return site


def _base(occupant: Occupant, standing: list[Occupant]) -> fx.Node:
    source = occupant.source
    while True:
        below = next((one.source for one in standing if one.result is source), None)
        if below is None:
            return source
        source = below


def _feeds(occupant: Occupant, standing: list[Occupant]) -> bool:
    """Whether another operator takes this one's result."""
    return any(one.source is occupant.result for one in standing)
