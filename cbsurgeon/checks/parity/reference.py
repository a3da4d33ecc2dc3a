"""Running the captured program in float64 and other dtypes: the exact outputs, and the rounding noise of a dtype."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import TensorArgument

from cbsurgeon.checks.parity.difference import as_real
from cbsurgeon.checks.parity.matching import renamed
from cbsurgeon.checks.parity.tolerance import Floor, floor_of
from cbsurgeon.deploy.casting import DTYPES, cast, in_float64
from cbsurgeon.deploy.typed import kept_in_range
from cbsurgeon.errors import ExportError
from cbsurgeon.graph import Program

# More weights than this need over 4 GB in float64, and minutes.
LARGEST_REFERENCE = 500_000_000

Named = Mapping[str, Tensor]
Outputs = dict[str, Tensor]
Run = Callable[[Named], Outputs]


class Reference:
    """The model in float64, as the reference for rounding noise.

    Attributes:
        reason: why there is no float64 reference; empty if there is one.
    """

    def __init__(self, program: Program | None) -> None:
        self.program = program
        self.reason = "" if program is not None else "neither A nor B is a model that can be captured"
        self._programs: dict[str, Run] = {}
        self._last: dict[str, tuple[Named, Outputs]] = {}
        if program is None:
            return
        weights = sum(tensor.numel() for tensor in program.exported.state_dict.values())
        if weights > LARGEST_REFERENCE:
            self.reason = f"{weights:,} weights in float64 would take {weights * 8 / 1e9:.0f} GB"

    def __str__(self) -> str:
        return f"none: {self.reason}" if self.reason else "float64 program"

    @cached_property
    def exact(self) -> fx.GraphModule:
        """The program as a module in float64. There is one, because it takes eight bytes per weight."""
        assert self.program is not None
        return in_float64(self.program)

    def floors(self, inputs: Named, dtypes: tuple[str, str], *, samples: bool = False) -> dict[str, Floor]:
        """Return output → sum of the noise floors of both dtypes; empty if there is no reference.

        Args:
            inputs: the inputs to measure on.
            dtypes: floating types of the two models.
            samples: measure the noise of each sample as well, not only that of each channel and token.
        """
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
                first, second = (
                    floor_of(within[dtype][name], value, dtype, () if samples else axes[name]) for dtype in dtypes
                )
                finite = all(bool(torch.isfinite(found[dtype][name]).all()) for dtype in dtypes)
                floors[name] = replace(first + second, finite=finite)
        return floors

    def _in_range(self, dtype: str, inputs: Named, outputs: Outputs, exact: Outputs) -> Outputs:
        """Return the outputs in a 16-bit dtype; if they overflow, those with the overflowing nodes in float32.

        An overflow is not rounding noise: without this, a file that computes those nodes in float32 would be judged
        against infinite noise.
        """
        lost = any(bool((torch.isfinite(exact[name]) & ~torch.isfinite(value)).any()) for name, value in outputs.items()
                   if value.is_floating_point())  # fmt: skip
        if dtype not in DTYPES or not lost or self.program is None:
            return outputs
        inputs = renamed(inputs, self.program.input_names)
        return run_in(self.program, dtype, kept_in_range(self.program, DTYPES[dtype], inputs))(inputs)

    def run(self, dtype: str, inputs: Named) -> Outputs:
        """Run the program in one dtype; the converted program and its last run are cached."""
        inputs = self.fitting(inputs)
        last = self._last.get(dtype)
        if last is not None and all(torch.equal(value, inputs[name]) for name, value in last[0].items()):
            return last[1]
        assert self.program is not None
        if dtype not in self._programs:
            exact = dtype == "float64"
            self._programs[dtype] = (
                runner(self.program, self.exact, torch.float64) if exact else run_in(self.program, dtype)
            )
        self._last[dtype] = inputs, self._programs[dtype](inputs)
        return self._last[dtype][1]

    def fitting(self, inputs: Named) -> dict[str, Tensor]:
        """Return the inputs under the program's names."""
        assert self.program is not None
        return renamed(inputs, self.program.input_names)


def run_in(program: Program, dtype: str, keep: Collection[str] = ()) -> Run:
    """Return the program as a function of named inputs that computes in float32 or a 16-bit dtype.

    Nodes in ``keep`` compute in float32.
    """
    if dtype in DTYPES:
        program = cast(program, DTYPES[dtype], keep)
    return runner(program, program.module())


def runner(program: Program, module: nn.Module, kind: torch.dtype | None = None) -> Run:
    """Return a module with the program's inputs and outputs as a function of named inputs.

    Args:
        program: names the inputs and outputs.
        module: what is run.
        kind: floating type of the inputs; by default, each has that of the program's example.
    """

    def run(inputs: Named) -> dict[str, Tensor]:
        fitted = {
            name: value.to(kind or program.example[name].dtype) if value.is_floating_point() else value
            for name, value in inputs.items()
        }
        args, kwargs = program.arguments(fitted)
        with torch.no_grad():
            outputs = program.name_outputs(module(*args, **kwargs))
        return {name: as_real(value) for name, value in outputs.items()}

    return run


def output_batch_axes(program: Program) -> dict[str, frozenset[int]]:
    """Return output name → axes whose size depends on the batch."""
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
