"""Edit a copy of a captured program: its graph, its weights and its signature."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputSpec,
    TensorArgument,
)

from cbsurgeon.errors import SurgeryError
from cbsurgeon.graph.program import Program

_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_ORIGIN = ("nn_module_stack", "stack_trace", "torch_fn", "custom")


class ProgramEditor:
    """A program being edited. The original is not touched; weights are shared until they are replaced.

    Attributes:
        program: the program that is edited.
        graph: the copy of its graph, free to edit; nodes have the names of the original.
        targets: placeholder name → state-dict key, for every parameter, buffer and constant.
        weights: placeholder name → tensor, for the same.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        exported = program.exported
        self.graph = _copied(exported.graph)
        self._inputs: list[InputSpec] = list(exported.graph_signature.input_specs)
        self._state: dict[str, Any] = dict(exported.state_dict)
        self._constants: dict[str, Any] = dict(exported.constants)
        self.targets = {
            spec.arg.name: str(spec.target)
            for spec in self._inputs
            if spec.kind in _WEIGHTS and spec.target is not None
        }
        held = {**self._constants, **self._state}
        self.weights: dict[str, Tensor] = {
            name: held[target] for name, target in self.targets.items() if isinstance(held.get(target), Tensor)
        }

    def node(self, name: str) -> fx.Node:
        """Return the node with a name.

        Raises:
            KeyError: there is no such node.
        """
        for node in self.graph.nodes:
            if node.name == name:
                return node  # type: ignore[no-any-return]
        raise KeyError(name)

    def call(self, target: Any, args: tuple[Any, ...], value: Any, *, like: fx.Node) -> fx.Node:
        """Insert one operator at the current insertion point, with a value and the metadata of ``like``.

        The value is given and not computed: running operators on symbolic shapes can specialise the batch, in the
        original program as well, because both share their symbols.
        """
        node: fx.Node = self.graph.call_function(target, args)
        for key in _ORIGIN:
            if key in like.meta:
                node.meta[key] = like.meta[key]
        node.meta["val"] = value
        return node

    def replace_weight(self, name: str, value: Tensor) -> None:
        """Give a placeholder another tensor, of the same shape."""
        old = self.weights[name]
        self.weights[name] = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
        target = self.targets[name]
        (self._state if target in self._state else self._constants)[target] = self.weights[name]

    def add_weight(self, path: str, tensor: Tensor, *, saved: bool) -> fx.Node:
        """A new parameter or buffer: its state-dict entry, its placeholder, and its line in the signature.

        Args:
            path: its state-dict key.
            tensor: an ``nn.Parameter`` for a parameter, any other tensor for a buffer.
            saved: it belongs to the state dict; false for a buffer that is not persistent.
        """
        first = self.program.exported.graph_signature.user_inputs[0]
        place = next(number for number, spec in enumerate(self._inputs) if getattr(spec.arg, "name", None) == first)
        learned = isinstance(tensor, nn.Parameter)
        with self.graph.inserting_before(self.node(str(first))):
            node = self.graph.placeholder(("p_" if learned else "b_") + path.replace(".", "_"))
        node.target = node.name
        node.meta["val"] = self._fake_mode().from_tensor(tensor.detach(), static_shapes=True)
        kind, persistent = (InputKind.PARAMETER, None) if learned else (InputKind.BUFFER, saved)
        self._inputs.insert(place, InputSpec(kind, TensorArgument(node.name), path, persistent))
        (self._state if saved else self._constants)[path] = self.weights[node.name] = tensor
        self.targets[node.name] = path
        return node

    def remove_weights(self, prefix: str) -> None:
        """Take out every parameter and buffer under a module path; nothing may read them any more."""
        for spec in [spec for spec in self._inputs if spec.target and spec.target.startswith(f"{prefix}.")]:
            self.graph.erase_node(self.node(spec.arg.name))
            self._inputs.remove(spec)
            self._state.pop(str(spec.target), None)
            self._constants.pop(str(spec.target), None)

    def finish(self, example: Mapping[str, Tensor] | None = None) -> Program:
        """Return the edited program, checked by torch's verifier.

        Args:
            example: other example tensors by input name, where their types changed.
        """
        old = self.program.exported
        self.graph.lint()
        module = fx.GraphModule(old.graph_module, self.graph)
        module.meta = dict(old.graph_module.meta)
        exported = ExportedProgram(
            root=module,
            graph=module.graph,
            graph_signature=ExportGraphSignature(list(self._inputs), self._outputs()),
            state_dict=self._state,
            range_constraints=old.range_constraints,
            module_call_graph=old.module_call_graph,
            example_inputs=old.example_inputs if example is None else self.program.arguments(example),
            constants=self._constants,
            # A captured graph may write in place; torch's default verifier takes functional graphs only.
            verifiers=old.verifiers,
        )
        edited = self.program.replace(exported)
        return edited if example is None else dataclasses.replace(edited, example=dict(example))

    def _outputs(self) -> list[OutputSpec]:
        """The outputs of the signature, with the names of the nodes that the graph returns now."""
        returned = self.graph.output_node().args[0]
        specs = self.program.exported.graph_signature.output_specs
        return [
            OutputSpec(spec.kind, TensorArgument(node.name), spec.target)
            if isinstance(spec.arg, TensorArgument)
            else spec
            for spec, node in zip(specs, returned, strict=True)  # type: ignore[arg-type]
        ]

    def _fake_mode(self) -> Any:
        """The ``FakeTensorMode`` of the graph's values.

        Raises:
            SurgeryError: its nodes carry no values (CB-SURGERY-05).
        """
        for node in self.graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, Tensor) and hasattr(value, "fake_mode"):
                return value.fake_mode
        raise SurgeryError(
            "the program's nodes carry no values",
            code="CB-SURGERY-05",
            where="the graph of the program",
            why='meta["val"] is missing',
            do="export it again with torch.export.export",
        )


def shaped(like: Tensor, shape: Sequence[Any] | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Return a fake tensor of another shape or type."""
    fake: Any = like
    with fake.fake_mode:
        if shape is None:
            return torch.empty_strided(like.shape, like.stride(), dtype=dtype or like.dtype, device=like.device)
        return torch.empty(tuple(shape), dtype=dtype or like.dtype, device=like.device)


def _copied(graph: fx.Graph) -> fx.Graph:
    """A copy of a graph with the same names; ``deepcopy`` renames nodes called like a Python built-in (``input``)."""
    other = copy.deepcopy(graph)
    for old, new in zip(graph.nodes, other.nodes, strict=True):
        if new.name != old.name:
            new.name = old.name
    return other
