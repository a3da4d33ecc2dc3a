"""Run parts of a captured graph, to read or replace intermediate values."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind, InputSpec

from cbsurgeon.errors import pass_out_of_memory
from cbsurgeon.graph import aten
from cbsurgeon.graph.capture.writing import storage, writes
from cbsurgeon.graph.program import Program

Override = Mapping[str, Tensor]
"""Node name → tensor that replaces its value."""


class Execution:
    """Runs parts of one captured program: only the nodes that the requested values are computed from.

    Preparing it takes one pass over the graph. A run takes time for the nodes that it needs, however long the graph is.
    The program must not be edited as long as this object is used.
    """

    def __init__(self, program: Program) -> None:
        module = program.exported.graph_module
        self._program = program
        self._interpreter = fx.Interpreter(module, garbage_collect_values=False)
        self._nodes = {node.name: node for node in module.graph.nodes}
        self._places = {node: place for place, node in enumerate(module.graph.nodes)}
        self._specs = {getattr(spec.arg, "name", ""): spec for spec in program.exported.graph_signature.input_specs}
        self._writers: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        for node in module.graph.nodes:
            if writes(node):
                self._writers[storage(node)].append(node)

    def values(
        self,
        inputs: Mapping[str, Tensor],
        wanted: Iterable[str],
        override: Override | None = None,
        *,
        grad: bool = False,
    ) -> dict[str, Tensor]:
        """Return the values of named nodes for named inputs.

        A node that draws random numbers draws the same numbers in every run, whichever other nodes run.

        Args:
            inputs: input name → tensor.
            wanted: names of the nodes.
            override: node name → tensor that replaces its value.
            grad: whether gradients of the values can be computed; they pass ``detach``, which changes no value.

        Raises:
            KeyError: a name is not in the graph.
            MemoryError: memory could not be allocated.
        """
        override, names = override or {}, list(wanted)
        nodes = {self._nodes[name] for name in names}
        order = self._needed(nodes, override)
        dead = _last_uses(order, keep=nodes)
        environment: dict[fx.Node, Any] = {}
        self._interpreter.env = environment
        try:
            with torch.set_grad_enabled(grad):
                for node in order:
                    environment[node] = self._value(node, inputs, override)
                    for gone in dead[node]:
                        environment.pop(gone, None)
        except RuntimeError as error:
            pass_out_of_memory(error)  # callers take other errors for an answer about the model
            raise
        finally:
            self._interpreter.env = {}
        return {name: environment[self._nodes[name]] for name in names}

    def _value(self, node: fx.Node, inputs: Mapping[str, Tensor], override: Override) -> Any:
        """Return the value of a node; a value from outside is copied if the graph writes into tensors."""
        if node.name in override:
            value: Any = override[node.name]
        elif node.op == "placeholder":
            value = _given(self._program, self._specs[node.name], inputs)
        else:
            return self._run(node)
        return value.clone() if self._writers and isinstance(value, Tensor) else value

    def _run(self, node: fx.Node) -> Any:
        if torch.is_grad_enabled() and aten.name(node) == "detach":
            return self._interpreter.env[node.all_input_nodes[0]]
        if not aten.draws(node):
            return self._interpreter.run_node(node)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._places[node])
            return self._interpreter.run_node(node)

    def _needed(self, wanted: Iterable[fx.Node], override: Override) -> list[fx.Node]:
        """Return the nodes that have to run, in graph order: the ancestors of the wanted nodes back to replaced values,
        and the nodes that write into one of these before it is read."""
        needed = dict[int, fx.Node]()
        queue = list[int]()

        def add(node: fx.Node) -> None:
            place = self._places[node]
            if place not in needed:
                needed[place] = node
                heapq.heappush(queue, -place)

        for node in wanted:
            add(node)
        while queue:
            node = needed[-heapq.heappop(queue)]
            if node.name not in override:
                for source in node.all_input_nodes:
                    add(source)
                    for writer in self._writers.get(storage(source), ()) if self._writers else ():
                        if self._places[writer] < self._places[node]:
                            add(writer)
        return [needed[place] for place in sorted(needed)]


def _last_uses(order: list[fx.Node], keep: Iterable[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Return, for each node of a run, the values that no later node of it reads."""
    last: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    seen = set(keep)
    for node in reversed(order):
        for source in node.all_input_nodes:
            if source not in seen:
                seen.add(source)
                last[node].append(source)
    return last


def values(
    program: Program, inputs: Mapping[str, Tensor], wanted: Iterable[str], override: Override | None = None
) -> dict[str, Tensor]:
    """Run a program once; see :meth:`Execution.values`."""
    return Execution(program).values(inputs, wanted, override)


def flat_inputs(program: Program, inputs: Mapping[str, Tensor]) -> list[Any]:
    """One value per placeholder of the graph: parameters, buffers, constants and the user's inputs."""
    return [_given(program, spec, inputs) for spec in program.exported.graph_signature.input_specs]


def _given(program: Program, spec: InputSpec, inputs: Mapping[str, Tensor]) -> Any:
    """The value of one placeholder."""
    exported, target = program.exported, str(spec.target)
    if spec.kind is InputKind.USER_INPUT:
        name = getattr(spec.arg, "name", "")
        return inputs[name] if name in inputs else getattr(spec.arg, "value", None)
    return exported.state_dict[target] if target in exported.state_dict else exported.constants[target]
