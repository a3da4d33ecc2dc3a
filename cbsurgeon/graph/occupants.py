"""Find inserted operators in a program, and bypass them.

A program is read with its inserted operators bypassed, so that the same blocks are found before and after an insertion,
whatever the operator computes. An operator occupies the site whose tensor it is applied to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument

from cbsurgeon.graph.block import Block, Site
from cbsurgeon.graph.editing import ProgramEditor
from cbsurgeon.graph.program import Program
from cbsurgeon.operators.base import Operator
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
        source: the node that it is applied to.
        result: the node of its result.
        kind: its class; ``None`` if it has not been imported.
    """

    op: str
    path: str
    nodes: tuple[fx.Node, ...]
    source: fx.Node
    result: fx.Node
    kind: type[Operator] | None = None

    @property
    def readers(self) -> frozenset[str]:
        """Names of the nodes that read the result."""
        inside = set(self.nodes)
        return frozenset(user.name for user in self.result.users if user not in inside)


@dataclass(frozen=True)
class Membership:
    """The operator that a node is part of.

    Attributes:
        path: module path of the operator.
        call: which call of it, where its module runs several times.
        op: its name; if its class has not been imported, the class as written in the module stack.
        kind: its class; ``None`` if it has not been imported.
        mark: the metadata written on the node when the operator was inserted into a program; empty for an operator that
            is a module.
    """

    path: str
    call: object
    op: str
    kind: type[Operator] | None
    mark: Mapping[str, Any]


def membership(node: fx.Node, known: Mapping[str, type[Operator]] | None = None) -> Membership | None:
    """Return the operator that a node is part of, or ``None`` for the model's own nodes.

    A node is part of an operator if it has our mark, or if its module is an inserted operator: of an ``Operator``
    class, or a child with the name that the module editor gives.

    Args:
        node: any node of a captured program.
        known: operator classes by full name (:func:`cbsurgeon.operators.registry.classes`), for callers that check many
            nodes.
    """
    if node.op != "call_function":
        return None
    known = classes() if known is None else known
    mark: Mapping[str, Any] = (node.meta.get("custom") or {}).get(MARK) or {}
    for call, (path, kind) in (node.meta.get("nn_module_stack") or {}).items():
        written = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        plain = path.split("@")[0]
        if written in known or plain.rpartition(".")[2] in (ON_OUTPUT, ON_INPUT):
            found = known.get(written)
            op = mark["op"] if mark else found.name if found else written
            return Membership(mark.get("site", plain), mark.get("call", call), op, found, mark)
    if mark:  # some graph passes drop the module stack
        named = next((kind for kind in known.values() if kind.name == mark["op"]), None)
        return Membership(mark["site"], mark["call"], mark["op"], named, mark)
    return None


def occupants(exported: ExportedProgram, graph: fx.Graph | None = None) -> list[Occupant]:
    """Return every inserted operator of a program, in graph order.

    Nodes that do not map one tensor to one of the same shape are left out (see :func:`membership`).

    Args:
        exported: the program.
        graph: a copy of its graph to search instead.
    """
    given = {
        spec.arg.name
        for spec in exported.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument)
    }
    known = classes()
    members: dict[tuple[str, object], list[fx.Node]] = defaultdict(list)
    described: dict[tuple[str, object], Membership] = {}
    for node in (graph or exported.graph).nodes:
        if (one := membership(node, known)) is not None:
            members[one.path, one.call].append(node)
            described[one.path, one.call] = one
    found = (_occupant(described[key], nodes, given) for key, nodes in members.items())
    return [occupant for occupant in found if occupant is not None]


def _occupant(one: Membership, nodes: list[fx.Node], given: Collection[str]) -> Occupant | None:
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
    marked = [source for source in sources if source.name == one.mark.get("source")]
    if len(marked or sources) != 1:
        return None
    return Occupant(one.op, one.path, tuple(nodes), (marked or sources)[0], results[0], one.kind)


def without(program: Program) -> tuple[Program, list[Occupant]]:
    """Return the program with every operator bypassed, and the operators (with nodes of the original program).

    The operators' parameters stay in the signature, unused. A program without operators is returned as it is.
    """
    operators = occupants(program.exported)
    if not operators:
        return program, []
    editor = ProgramEditor(program)
    bypass(editor.graph, occupants(program.exported, editor.graph))
    return editor.finish(), operators


def bypass(graph: fx.Graph, operators: list[Occupant]) -> None:
    """Remove operators from a graph, in place."""
    for occupant in reversed(operators):  # an operator that is applied to another's result is removed first
        occupant.result.replace_all_uses_with(occupant.source)
        for node in reversed(occupant.nodes):
            graph.erase_node(node)


def occupied(block: Block, operators: list[Occupant]) -> Block:
    """Return the block with ``occupied`` set at the sites that have an operator."""
    return replace(block, sites={position: _occupied(site, operators) for position, site in block.sites.items()})


def _occupied(site: Site, operators: list[Occupant]) -> Site:
    for use in site.uses:
        for occupant in operators:
            # An operator that is applied to another's result occupies the same site. So does one in front of a dropout
            # that is a function call: no module ends behind it.
            undropped = bool(site.hooks) and site.hooks[0].before_dropout and use.value in occupant.readers
            if _base(occupant, operators).name != use.value and not undropped:
                continue
            if undropped:
                return replace(site, occupied=occupant.op)
            if not use.consumers or occupant.readers & set(use.consumers) or _feeds(occupant, operators):
                return replace(site, occupied=occupant.op)
    return site


def _base(occupant: Occupant, operators: list[Occupant]) -> fx.Node:
    source = occupant.source
    while True:
        below = next((one.source for one in operators if one.result is source), None)
        if below is None:
            return source
        source = below


def _feeds(occupant: Occupant, operators: list[Occupant]) -> bool:
    """Whether another operator takes this one's result."""
    return any(one.source is occupant.result for one in operators)
