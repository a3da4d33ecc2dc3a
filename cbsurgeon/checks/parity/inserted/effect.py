"""What the inserted operators do to a model's outputs, computed in float64."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, fx, nn

from cbsurgeon.checks.parity.reference import Reference, output_batch_axes, runner
from cbsurgeon.graph.occupants import Occupant, occupants

STEP = 1e-2
"""Change of a coefficient from which the derivatives are computed: small, and far above the rounding of float64."""


@dataclass(frozen=True)
class Effect:
    """One output, and how it depends on the inserted operators. All tensors have its shape.

    Attributes:
        name: its name in the program.
        axis: its batch axis; ``None`` if it has none.
        full: its value.
        removal: the change when all operators are removed.
        result, source: its derivatives with respect to the coefficients ``a`` and ``b`` at 0, where each operator
            computes ``(1 + a) op(x) + b x``.
        known: where all of these are finite; elsewhere (scores that the model masks) they are 0.
    """

    name: str
    axis: int | None
    full: Tensor
    removal: Tensor
    result: Tensor
    source: Tensor
    known: Tensor

    def within(self, output: Tensor) -> Tensor:
        """Return an output with 0 where the effect is not known."""
        return output.masked_fill(~self.known.to(output.device), 0)


class Coefficients(nn.Module):
    """Computes ``(1 + a) op(x) + b x`` from the result of an operator and its input ``x``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = 0.0, 0.0

    def forward(self, result: Tensor, source: Tensor) -> Tensor:
        """All operators of a program share this module, so that they change together."""
        if (self.a, self.b) == (0.0, 0.0):
            return result
        return source if (self.a, self.b) == (-1.0, 1.0) else (1.0 + self.a) * result + self.b * source


class Operators:
    """The program in float64, with its inserted operators changed or removed.

    If rounding is as large as the operators' effect, a small difference does not prove that both models contain the
    operators, but its direction does: without the operators, outputs are closer to those of the program without them.

    Attributes:
        reference: the program in float64 and in other dtypes.
        exists: whether the program has inserted operators.
        reason: why the program cannot be run in float64; empty if it can.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.exists = reference.program is not None and bool(occupants(reference.program.exported))
        self.reason = reference.reason

    def effect(self, inputs: Mapping[str, Tensor]) -> list[Effect]:
        """Return the effect of the operators on each output, in the order of the outputs."""
        program, coefficients = self.reference.program, self._coefficients
        assert program is not None
        run = runner(program, self.reference.exact, torch.float64)

        def changed(a: float, b: float) -> dict[str, Tensor]:
            coefficients.a, coefficients.b = a, b
            try:
                outputs = run(self.reference.fitting(inputs))
            finally:
                coefficients.a, coefficients.b = 0.0, 0.0
            return {name: value.double() for name, value in outputs.items()}  # truth values cannot be subtracted

        axes = output_batch_axes(program)
        bare, result, source = changed(-1.0, 1.0), changed(STEP, 0.0), changed(0.0, STEP)
        found = []
        for name, full in self.reference.run("float64", inputs).items():
            exact = full.double()
            changes = (bare[name] - exact, (result[name] - exact) / STEP, (source[name] - exact) / STEP)
            known = torch.stack([exact, *changes]).isfinite().all(0)
            removal, more, other = (change.masked_fill(~known, 0.0) for change in changes)
            axis = min(axes[name], default=None)
            found.append(Effect(name, axis, full.masked_fill(~known, 0), removal, more, other, known))
        return found

    @cached_property
    def _coefficients(self) -> Coefficients:
        """The coefficients of all operators, after their calls are added to the float64 module of the reference.

        Both are 0, so that the reference computes what it did before.
        """
        module, coefficients = self.reference.exact, Coefficients()
        assert self.reference.program is not None
        _add(module, coefficients, occupants(self.reference.program.exported))
        return coefficients


def _add(module: fx.GraphModule, coefficients: Coefficients, inserted: Iterable[Occupant]) -> None:
    """Add a call of the coefficients after each inserted operator of a module, in place."""
    name = "_cbsurgeon_coefficients"
    module.add_module(name, coefficients)
    nodes: dict[str, fx.Node] = {node.name: node for node in module.graph.nodes}
    for occupant in inserted:
        result, source = nodes[occupant.result.name], nodes[occupant.source.name]
        with module.graph.inserting_after(result):
            changed = module.graph.call_module(name, (result, source))
        for reader in [user for user in result.users if user is not changed]:
            reader.replace_input_with(result, changed)
    module.recompile()
