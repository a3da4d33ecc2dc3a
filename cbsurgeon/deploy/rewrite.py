"""Editing a copy of a captured program: its graph, its weights, and the types its nodes are labelled with."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument

from cbsurgeon.graph import Program
from cbsurgeon.graph.occupants import keep_names

_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


class Draft:
    """A program being edited; the original is not touched and weights are shared until they are replaced.

    Attributes:
        graph: the copied graph, free to edit.
        weights: placeholder name → tensor, for every parameter, buffer and constant.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        exported = program.exported
        self.module: fx.GraphModule = copy.deepcopy(exported.graph_module)
        keep_names(exported.graph, self.module.graph)
        self.graph = self.module.graph
        self.targets = {
            spec.arg.name: str(spec.target)
            for spec in exported.graph_signature.input_specs
            if spec.kind in _WEIGHTS and spec.target is not None
        }
        self.weights: dict[str, Tensor] = {
            name: exported.state_dict[target] if target in exported.state_dict else exported.constants[target]
            for name, target in self.targets.items()
            if target in exported.state_dict or isinstance(exported.constants.get(target), Tensor)
        }
        self._replaced: dict[str, Tensor] = {}

    def replace_weight(self, name: str, value: Tensor) -> None:
        """Give a placeholder another tensor, of the same shape."""
        old = self.weights[name]
        self.weights[name] = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
        self._replaced[self.targets[name]] = self.weights[name]

    def call(self, target: Any, args: tuple[Any, ...], value: Any, *, like: fx.Node) -> fx.Node:
        """Append one operator at the current insertion point, labelled with its value and ``like``'s origin.

        The value is given, not computed: running operators on symbolic shapes can fix the batch for good, in the
        original program as well, because the two share their symbols.
        """
        node: fx.Node = self.graph.call_function(target, args)
        for key in ("nn_module_stack", "stack_trace", "torch_fn", "custom"):
            if key in like.meta:
                node.meta[key] = like.meta[key]
        node.meta["val"] = value
        return node

    def finish(self, example: Mapping[str, Tensor] | None = None) -> Program:
        """The edited program, verified.

        Args:
            example: other example tensors by input name, where their types changed.
        """
        old = self.program.exported
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.module.recompile()
        signature = copy.deepcopy(old.graph_signature)
        for spec, value in zip(signature.output_specs, self.graph.output_node().args[0], strict=True):
            if isinstance(spec.arg, TensorArgument):
                spec.arg.name = value.name
        inputs = old.example_inputs if example is None else self.program.arguments(example)
        exported = ExportedProgram(
            root=self.module,
            graph=self.graph,
            graph_signature=signature,
            state_dict={**old.state_dict, **{k: v for k, v in self._replaced.items() if k in old.state_dict}},
            range_constraints=old.range_constraints,
            module_call_graph=old.module_call_graph,
            example_inputs=inputs,
            constants={**old.constants, **{k: v for k, v in self._replaced.items() if k in old.constants}},
            verifiers=old.verifiers,
        )
        edited = self.program.replace(exported)
        return edited if example is None else dataclasses.replace(edited, example=dict(example))


def shaped(like: Tensor, shape: Sequence[Any] | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """A symbolic tensor of another shape or type."""
    fake: Any = like
    with fake.fake_mode:
        if shape is None:
            return torch.empty_strided(like.shape, like.stride(), dtype=dtype or like.dtype, device=like.device)
        return torch.empty(tuple(shape), dtype=dtype or like.dtype, device=like.device)
