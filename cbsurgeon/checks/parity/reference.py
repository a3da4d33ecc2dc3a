"""The captured program in float64 and other dtypes: what correct outputs are, and how far rounding moves them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import TensorArgument

from cbsurgeon.checks.parity.matching import renamed
from cbsurgeon.checks.parity.tolerance import Floor, floor_of
from cbsurgeon.deploy.casting import DTYPES, cast, in_float64
from cbsurgeon.deploy.typed import kept_in_range
from cbsurgeon.errors import ExportError
from cbsurgeon.graph import Program
from cbsurgeon.graph.occupants import without

# Weights beyond this take more than 4 GB in float64, and minutes.
LARGEST_REFERENCE = 500_000_000

Named = Mapping[str, Tensor]
Outputs = dict[str, Tensor]
Run = Callable[[Named], Outputs]


class Reference:
    """The model in float64, and what each type's roundings do to it.

    Attributes:
        reason: empty when a float64 reference runs, else why there is none.
    """

    def __init__(self, program: Program | None) -> None:
        self.program = program
        self.reason = "" if program is not None else "neither side is a model that can be captured"
        self._programs: dict[str, Run] = {}
        if program is None:
            return
        weights = sum(tensor.numel() for tensor in program.exported.state_dict.values())
        if weights > LARGEST_REFERENCE:
            self.reason = f"{weights:,} weights in float64 would take {weights * 8 / 1e9:.0f} GB"

    def __str__(self) -> str:
        return f"none: {self.reason}" if self.reason else "float64 program"

    def floors(self, inputs: Named, dtypes: tuple[str, str]) -> dict[str, Floor]:
        """The noise floors of both models' dtypes, added, by output; empty when there is no reference."""
        if self.reason or self.program is None:
            return {}
        try:
            exact = self.run("float64", inputs)
            found = {dtype: self.run(dtype, inputs) for dtype in dict.fromkeys(dtypes)}
            within = {dtype: self._in_range(dtype, inputs, outputs, exact) for dtype, outputs in found.items()}
        except (RuntimeError, NotImplementedError, ExportError) as error:
            self.reason = f"the program does not run in float64 or {dtypes[1]}: {' '.join(str(error).split())[:120]}"
            return {}
        axes = output_batch_axes(self.program)
        floors = {}
        for name, value in exact.items():
            if value.is_floating_point():
                first, second = (floor_of(within[dtype][name], value, dtype, axes[name]) for dtype in dtypes)
                finite = all(bool(torch.isfinite(found[dtype][name]).all()) for dtype in dtypes)
                floors[name] = replace(first + second, finite=finite)
        return floors

    def _in_range(self, dtype: str, inputs: Named, outputs: Outputs, exact: Outputs) -> Outputs:
        """Outputs of a 16-bit form; with what overflows in float32, where that made them infinite.

        An overflow is no rounding: without this, a file that computes those nodes in float32 would be held against no
        noise at all.
        """
        lost = any(bool((torch.isfinite(exact[name]) & ~torch.isfinite(value)).any()) for name, value in outputs.items()
                   if value.is_floating_point())  # fmt: skip
        if dtype not in DTYPES or not lost or self.program is None:
            return outputs
        inputs = renamed(inputs, self.program.input_names)
        return run_in(self.program, dtype, kept_in_range(self.program, DTYPES[dtype], inputs))(inputs)

    def run(self, dtype: str, inputs: Named) -> dict[str, Tensor]:
        """The program's outputs in one type; its form in that type is made once and kept."""
        assert self.program is not None
        if dtype not in self._programs:
            self._programs[dtype] = run_in(self.program, dtype)
        return self._programs[dtype](renamed(inputs, self.program.input_names))


def run_in(program: Program, dtype: str, keep: Collection[str] = ()) -> Run:
    """A program as a function of named inputs that computes in one type, nodes in ``keep`` in float32."""
    if dtype == "float64":
        module: Any = in_float64(program)
        kind: torch.dtype | None = torch.float64
    elif dtype in DTYPES:
        program = cast(program, DTYPES[dtype], keep)
        module, kind = program.module(), None
    else:
        module, kind = program.module(), None

    def run(inputs: Named) -> dict[str, Tensor]:
        fitted = {
            name: value.to(kind or program.example[name].dtype) if value.is_floating_point() else value
            for name, value in inputs.items()
        }
        args, kwargs = program.arguments(fitted)
        with torch.no_grad():
            return program.name_outputs(module(*args, **kwargs))

    return run


class Operators:
    """The program with its inserted operators and without them, in float64.

    A small difference between two models is no evidence that both contain the operators where rounding is as large as
    their effect. The direction of the effect is: a model that lacks them lies nearer to the program without them.

    Attributes:
        exists: whether the program has inserted operators.
        reason: empty when the two programs can be run in float64, else why not.
    """

    def __init__(self, reference: Reference) -> None:
        bare, standing = (None, []) if reference.program is None else without(reference.program)
        self.exists = bool(standing)
        self.reason = reference.reason
        self._full, self._bare = reference, Reference(bare)

    def effect(self, inputs: Named) -> list[tuple[Tensor, Tensor]]:
        """For each output: its value with the operators, and what their removal adds to it."""
        full, bare = (each.run("float64", inputs) for each in (self._full, self._bare))
        return [(value, bare[name] - value) for name, value in full.items()]


def share_removed(output: Tensor, full: Tensor, effect: Tensor) -> float:
    """How much of the operators' effect an output lacks: 0 where it has all of it, 1 where it has none.

    The projection of ``output - full`` on ``effect``, over all elements; all three have the same shape.
    """
    gap = (output.detach().cpu().double() - full).flatten()
    away = effect.flatten()
    return float(gap @ away) / float(away @ away)


def output_batch_axes(program: Program) -> dict[str, frozenset[int]]:
    """Output name → axes whose size changes with the batch."""
    values = {node.name: node.meta.get("val") for node in program.exported.graph.nodes}
    outputs = [
        values.get(spec.arg.name)
        for spec in program.exported.graph_signature.output_specs
        if spec.kind.name == "USER_OUTPUT" and isinstance(spec.arg, TensorArgument)
    ]
    return {
        name: frozenset(axis for axis, size in enumerate(value.shape) if isinstance(size, torch.SymInt))
        if isinstance(value, Tensor)
        else frozenset({0})
        for name, value in zip(program.output_names, outputs, strict=False)
    }
