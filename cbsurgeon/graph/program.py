"""A captured model: an ``ExportedProgram`` with named inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Program:
    """A model captured by ``torch.export``, whose batch axis is symbolic.

    Attributes:
        exported: the program; its graph holds undecomposed ATen operators.
        input_names: names of the tensor inputs, in the order of the graph's placeholders.
        output_names: names of the flat tensor outputs.
        example: input name → example tensor.
        batch_axes: input name → index of its batch axis, for the inputs that have one.
        prefix: module path of the captured sub-module, empty when the whole model was captured.
    """

    exported: ExportedProgram
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    example: Mapping[str, Tensor]
    batch_axes: Mapping[str, int]
    prefix: str = ""

    def module(self) -> nn.Module:
        """Return a callable module of the program; it shares the program's parameters."""
        return self.exported.module(check_guards=False)

    def arguments(self, inputs: Mapping[str, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and keyword arguments of :meth:`module` for named inputs."""
        args, kwargs = self.exported.example_inputs
        leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
        names = iter(self.input_names)
        filled = [inputs[next(names)] if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        positional, keywords = pytree.tree_unflatten(filled, spec)
        return tuple(positional), dict(keywords)

    def name_outputs(self, outputs: Any) -> dict[str, Tensor]:
        """Return the flat tensors of a model's output by name."""
        tensors = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
        return dict(zip(self.output_names, tensors, strict=True))

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the program on named inputs; for many runs keep :meth:`module` instead."""
        args, kwargs = self.arguments(inputs)
        with torch.no_grad():
            return self.name_outputs(self.module()(*args, **kwargs))

    def with_batch(self, batch: int, seed: int = 0) -> dict[str, Tensor]:
        """Return inputs of another batch size: new random floats, and random rows of integer and boolean examples."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: _resize(tensor, self.batch_axes[name], batch, generator) if name in self.batch_axes else tensor
            for name, tensor in self.example.items()
        }

    def under(self, prefix: str) -> Program:
        """Return the same program as a part of a larger model."""
        return replace(self, prefix=prefix)

    def replace(self, exported: ExportedProgram) -> Program:
        """Return an edited program with the same names."""
        return replace(self, exported=exported)


def parts(tensor: Tensor) -> Tensor:
    """Return a tensor in float64; complex numbers with a last axis for the real and the imaginary part."""
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).double()


def _resize(tensor: Tensor, axis: int, batch: int, generator: torch.Generator) -> Tensor:
    rows = torch.randint(tensor.shape[axis], (batch,), generator=generator)
    picked = tensor.index_select(axis, rows)
    if not tensor.is_floating_point():
        return picked
    low, high = float(tensor.min()), float(tensor.max())
    if low >= 0.0 and high <= 1.0:  # a mask, a box or an unnormalised image: stay in its range
        return torch.rand(picked.shape, generator=generator, dtype=torch.float32).to(tensor.dtype)
    return torch.randn(picked.shape, generator=generator, dtype=torch.float32).to(tensor.dtype)


def _batch_axes(values: Mapping[str, Tensor]) -> dict[str, int]:
    """Return, for each input, the axis whose size is the symbol of the batch.

    The symbol of the batch is that of axis 0 of the first input with a symbolic axis 0, else the first symbol of any
    axis.
    """
    symbols = {
        (name, axis): str(size)
        for name, value in values.items()
        for axis, size in enumerate(value.shape)
        if isinstance(size, torch.SymInt)
    }
    first = next((symbol for (_, axis), symbol in symbols.items() if axis == 0), next(iter(symbols.values()), None))
    found: dict[str, int] = {}
    for (name, axis), symbol in symbols.items():
        if symbol == first or axis == 0:
            found.setdefault(name, axis)
    return found


def tensor_inputs(exported: ExportedProgram) -> list[str]:
    """Return the names of the placeholders that take the user's tensors, in order."""
    return [
        spec.arg.name
        for spec in exported.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument)
    ]


def wrap(exported: ExportedProgram, output_names: tuple[str, ...] | None = None, prefix: str = "") -> Program:
    """Name the inputs and outputs of an exported program that has example inputs."""
    names = tensor_inputs(exported)
    args, kwargs = exported.example_inputs
    tensors = [leaf for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
    example = dict(zip(names, tensors, strict=True))
    values = {node.name: node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder"}
    batch_axes = _batch_axes({name: values[name] for name in names if isinstance(values[name], Tensor)})
    if output_names is None:
        count = sum(
            isinstance(spec.arg, TensorArgument)
            for spec in exported.graph_signature.output_specs
            if spec.kind.name == "USER_OUTPUT"
        )
        output_names = ("output",) if count == 1 else tuple(f"output_{i}" for i in range(count))
    return Program(exported, tuple(names), output_names, example, batch_axes, prefix)
