"""Run a captured graph node by node, to read or replace intermediate values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from cbsurgeon.graph import aten
from cbsurgeon.graph.program import Program

Override = Mapping[str, Tensor]
"""Node name → tensor that replaces its value."""


class _Enough(Exception):
    """Raised to stop a run when all requested values have been computed."""


class _Reader(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, wanted: Iterable[str], override: Override) -> None:
        super().__init__(module)
        self.wanted, self.override = set(wanted), override
        self.found: dict[str, Tensor] = {}
        self.needed = _needed(module.graph, self.wanted, override)
        self.places = {node: place for place, node in enumerate(module.graph.nodes)}

    def run(self, *args: Any, **_: Any) -> None:
        """Run only the nodes that are needed, so that many short runs of a long graph are fast."""
        self.env, self.args_iter = {}, iter(args)
        for node in self.module.graph.nodes:  # type: ignore[union-attr]
            if node.op in ("placeholder", "get_attr") or (node.op == "call_function" and node in self.needed):
                self.env[node] = self.run_node(node)
            for dead in self.user_to_last_uses.get(node, ()):
                self.env.pop(dead, None)

    def run_node(self, n: fx.Node) -> Any:
        if n.name not in self.override and aten.draws(n):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.places[n])
                result = super().run_node(n)
        elif n.name not in self.override:
            result = super().run_node(n)
        else:
            if n.op == "placeholder":  # running it advances to the next input
                super().run_node(n)
            result = self.override[n.name]
        if n.name in self.wanted:
            self.found[n.name] = result
            if len(self.found) == len(self.wanted):
                raise _Enough
        return result


def _needed(graph: fx.Graph, wanted: set[str], override: Override) -> set[fx.Node]:
    """Return the nodes that have to run for the requested values: their ancestors back to replaced values, and the
    nodes that write into one of these."""
    needed, written = set[fx.Node](), set[fx.Node]()
    for node in reversed(graph.nodes):
        if node.name in wanted or node in needed or (writes(node) and _storage(node) in written):
            needed.add(node)
            written.add(_storage(node))
            if node.name not in override:
                needed.update(node.all_input_nodes)
    return needed


def writes(node: fx.Node) -> bool:
    """Whether an operator writes into one of its operands."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _storage(node: fx.Node) -> fx.Node:
    """The tensor whose memory a node's result may share, through views and in-place operators."""
    while node.args and isinstance(node.args[0], fx.Node):
        if not (writes(node) or aten.name(node) in aten.LAYOUT | aten.CROP | aten.SPLIT):
            break
        node = node.args[0]
    return node


def values(
    program: Program,
    inputs: Mapping[str, Tensor],
    wanted: Iterable[str],
    override: Override | None = None,
    *,
    grad: bool = False,
) -> dict[str, Tensor]:
    """Return the values of named nodes for named inputs; only the nodes that are needed for them run.

    A node that draws random numbers draws the same numbers in every run, whichever other nodes run. With ``grad``,
    gradients of the values can be computed.

    Raises:
        KeyError: a name is not in the graph.
    """
    names = list(wanted)
    reader = _Reader(program.exported.graph_module, names, override or {})
    try:
        with torch.set_grad_enabled(grad):
            reader.run(*flat_inputs(program, inputs))
    except _Enough:
        pass
    return {name: reader.found[name] for name in names}


def flat_inputs(program: Program, inputs: Mapping[str, Tensor]) -> list[Any]:
    """One value per placeholder of the graph: parameters, buffers, constants and the user's inputs."""
    exported = program.exported
    result: list[Any] = []
    for spec in exported.graph_signature.input_specs:
        target = str(spec.target)
        if spec.kind is InputKind.USER_INPUT:
            name = getattr(spec.arg, "name", "")
            result.append(inputs[name] if name in inputs else getattr(spec.arg, "value", None))
        elif target in exported.state_dict:
            result.append(exported.state_dict[target])
        else:
            result.append(exported.constants[target])
    return result
