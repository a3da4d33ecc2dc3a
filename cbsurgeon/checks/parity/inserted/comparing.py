"""Checking that the outputs of a model show the inserted operators' effect, in full."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cbsurgeon.checks.parity.inserted.coefficients import Estimate, estimate
from cbsurgeon.checks.parity.inserted.effect import Effect, Operators
from cbsurgeon.checks.parity.row import Side
from cbsurgeon.checks.parity.tolerance import Floor, eps
from cbsurgeon.errors import ExportError

# Fraction of the operators' effect that a model lacks: 0 with all operators, 1 with none. 0.5 separates the two.
LARGEST_SHARE_REMOVED = 0.5

# A limit of a coefficient above this is noted, because CB whose factor is wrong by as much would pass.
NOTED = 0.05


@dataclass(frozen=True)
class Compared:
    """What the outputs show about the inserted operators.

    Attributes:
        failures: one sentence per output that shows other operators, or none.
        notes: what the outputs do not show.
        settled: whether the result would stay the same with more samples.
    """

    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settled: bool = True


def share_removed(output: Tensor, full: Tensor, effect: Tensor) -> float:
    """Return the fraction of the operators' effect that an output lacks: 0 if it has all of it, 1 if none.

    The projection of ``output - full`` on ``effect``, over all elements; all three have the same shape.
    """
    gap = (output.detach().cpu().double() - full).flatten()
    away = effect.flatten()
    return float(gap @ away) / float(away @ away)


def compare_operators(
    operators: Operators,
    inputs: Mapping[str, Tensor],
    sides: Sequence[tuple[Side, Mapping[str, Tensor]]],
    floors: Mapping[str, Floor],
) -> Compared:
    """Check the outputs of both models for the effect of the inserted operators, and for their coefficients.

    Args:
        operators: the inserted operators.
        inputs: what the outputs were computed from.
        sides: both models, and their outputs, by the same names.
        floors: output → rounding noise.
    """
    reason, effects = operators.reason, list[Effect]()
    try:
        effects = [] if reason else operators.effect(inputs)
        rounded = {side.dtype: {} if reason else operators.reference.run(side.dtype, inputs) for side, _ in sides}
    except (RuntimeError, NotImplementedError, ExportError) as error:
        reason = " ".join(str(error).split())[:120]
    if reason:
        return Compared(notes=(f"not compared with the model without its inserted operators: {reason}",))
    coarser = max((side.dtype for side, _ in sides), key=eps)
    clear = {
        name: effect
        for name, effect in zip(sides[0][1], effects, strict=True)
        if effect.full.is_floating_point()
        and float(torch.linalg.vector_norm(effect.removal)) > _rounding(floors.get(name), effect.full, coarser)
    }
    if not clear:
        note = "the inserted operators do not change any output by more than rounding, so parity does not show "
        return Compared(notes=(f"{note}whether both models contain them",))
    failures, hidden, settled = list[str](), 0.0, True
    for side, outputs in sides:
        for name, effect in clear.items():
            output = effect.within(outputs[name])
            share = share_removed(output, effect.full, effect.removal)
            found = _estimated(output, effect, effect.within(rounded[side.dtype][effect.name]))
            if math.isnan(share):
                failures.append(f"{side.name}: output {name!r} is not finite where that of the model is")
            elif share > LARGEST_SHARE_REMOVED:
                failures.append(
                    f"{side.name}: output {name!r} is closer to the model without its inserted operators "
                    f"({share:.0%} of their effect is missing)"
                )
            elif found is not None and not found.ok:
                failures.append(f"{side.name}: in output {name!r}, {found}")
            hidden = max(hidden, *(found.limits if found is not None else (math.inf,)))
            settled = settled and (found is None or found.clear)
    notes = (_hidden(hidden, coarser),) if hidden > NOTED else ()
    return Compared(tuple(failures), notes, bool(failures) or settled)


def _estimated(output: Tensor, effect: Effect, rounded: Tensor) -> Estimate | None:
    """Return the coefficients in an output; ``None`` if a value is not finite, such as one that overflows the type."""
    used = (output, rounded, effect.full, effect.result, effect.source)
    return estimate(output, effect, rounded) if all(bool(torch.isfinite(one).all()) for one in used) else None


def _hidden(limit: float, dtype: str) -> str:
    if limit == math.inf:
        return f"the coefficients of the inserted operators were not compared: outputs in {dtype} are not all finite"
    return f"inserted operators whose coefficients are off by up to {limit:.0%} cannot be told from rounding in {dtype}"


def _rounding(floor: Floor | None, output: Tensor, dtype: str) -> float:
    """Return the L2 norm of the rounding noise of an output."""
    relative = eps(dtype) if floor is None else floor.rel_l2
    return relative * float(torch.linalg.vector_norm(output))
