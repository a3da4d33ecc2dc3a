"""Find the module call that each node belongs to, and the modules whose input or output a tensor is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.block import Hook

Call = str
"""One call of a module: its path, with a suffix when the module runs more than once."""


class ModuleCalls:
    """The module calls of an exported graph, from ``meta["nn_module_stack"]``."""

    def __init__(self, flow: Flow, graph: fx.Graph) -> None:
        self._flow = flow
        self._nodes: dict[Call, list[fx.Node]] = defaultdict(list)
        self._stack: dict[fx.Node, tuple[Call, ...]] = {}
        self._path: dict[Call, str] = {}
        for node in graph.nodes:
            stack = node.meta.get("nn_module_stack") or {} if node.op == "call_function" else {}
            self._stack[node] = tuple(stack)
            for call, (path, _) in stack.items():
                self._nodes[call].append(node)
                self._path[call] = path.split("@")[0]
        self._inside = {call: frozenset(nodes) for call, nodes in self._nodes.items()}
        # The model itself holds every node, so what enters and leaves a call is computed once.
        self._left: dict[Call, frozenset[fx.Node]] = {}
        self._entered: dict[Call, frozenset[fx.Node]] = {}
        self._runs = Counter(self._path[call] for call in self._nodes)

    def path(self, node: fx.Node) -> str:
        """Return the path of the innermost module of a node; empty for the model itself, or if it is unknown."""
        stack = self._stack.get(node, ())
        return self._path[stack[-1]] if stack else ""

    def leaf(self, core: fx.Node, siblings: Sequence[fx.Node]) -> str:
        """Return the path of a projection's own module; empty if its innermost module has other projections too."""
        stack = self._stack.get(core, ())
        if not stack or not self._path[stack[-1]]:
            return ""
        inside = {node for node in self._nodes[stack[-1]] if node in self._flow.projections}
        return self._path[stack[-1]] if inside <= {core, *siblings} else ""

    def common(self, nodes: Sequence[fx.Node]) -> str:
        """Return the path of the innermost module that contains all of these nodes."""
        stacks = [self._stack.get(node, ()) for node in nodes]
        shared = [call for call in stacks[0] if all(call in stack for stack in stacks)] if stacks else []
        return self._path[shared[-1]] if shared else ""

    def runs(self, path: str) -> int:
        """Return how often a module runs in one forward pass."""
        return self._runs[path]

    def output_hooks(self, value: fx.Node) -> list[Hook]:
        """Return the modules whose only result is ``value``, outermost first."""
        stack = self._stack.get(value, ())
        return [
            Hook(self._path[call], "output") for call in stack if self._path[call] and self._leaving(call) == {value}
        ]

    def input_hooks(self, value: fx.Node, readers: Sequence[fx.Node]) -> list[Hook]:
        """Return the modules whose only input is ``value`` and in which only ``readers`` read it, innermost first.

        Nodes that read only its size do not count, because an operator keeps the shape.
        """
        stacks = [self._stack.get(reader, ()) for reader in readers]
        shared = [call for call in stacks[0] if self._path[call] and all(call in stack for stack in stacks)]
        found = []
        for call in reversed(shared):
            inside = self._inside[call]
            reading = {user for user in value.users if user in inside and aten.name(user) != "sym_size"}
            if reading == set(readers) and self._entering(call) == {value}:
                found.append(Hook(self._path[call], "input"))
        return found

    def results_before(self, value: fx.Node, limit: int = 400) -> Iterator[tuple[fx.Node, str]]:
        """Yield the results of modules that end before a node, nearest first, with the path of the innermost module.

        A module that runs again before the node is left out, because its last output is another tensor.
        """
        latest: dict[str, Call] = {}
        around = self._stack.get(value, ())
        node = value.prev
        for _ in range(limit):
            if node.op == "root":
                return
            stack = self._stack.get(node, ())
            for call in stack:
                latest.setdefault(self._path[call], call)
            if node in self._flow.table.dims:
                for call in reversed(stack):
                    path = self._path[call]
                    done = path and latest[path] == call and call not in around
                    if done and self._leaving(call) == {node}:
                        yield node, path
                        break
            node = node.prev

    def _leaving(self, call: Call) -> frozenset[fx.Node]:
        if call not in self._left:
            inside = self._inside[call]
            self._left[call] = frozenset(
                node
                for node in inside
                if aten.value(node) is not None
                and self._flow.is_activation(node)
                and any(user not in inside for user in node.users)
            )
        return self._left[call]

    def _entering(self, call: Call) -> frozenset[fx.Node]:
        if call not in self._entered:
            inside = self._inside[call]
            self._entered[call] = frozenset(
                source
                for node in inside
                for source in node.all_input_nodes
                if source not in inside and self._flow.is_activation(source) and aten.name(source) != "sym_size"
            )
        return self._entered[call]
