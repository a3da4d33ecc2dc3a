"""What the outputs can show: those that are equal for all samples show no difference between two models, and those that
rounding does not change show only large ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from cbsurgeon.checks.parity import difference as compare
from cbsurgeon.checks.parity.tolerance import Floor

LEAST_SPREAD = 4.0
"""Largest difference between samples, as a multiple of the tolerance, from which nothing is noted."""


@dataclass
class _Seen:
    """The first sample of one output, whether other samples or elements differ from it, and whether rounding does."""

    first: Tensor
    samples: int = 0
    spread: float = 0.0
    """Largest difference between two samples, as a multiple of the tolerance."""
    elements_vary: bool = False
    rounds: bool = False

    @property
    def varies(self) -> bool:
        return self.spread > 1.0


@dataclass
class Variation:
    """What is known of every output."""

    _seen: dict[str, _Seen] = field(default_factory=dict)

    @property
    def blind(self) -> bool:
        """Whether no output differs between samples by more than the tolerance.

        If only one sample was compared, its elements are compared with each other instead.
        """
        return bool(self._seen) and not any(
            seen.varies if seen.samples > 1 else seen.elements_vary for seen in self._seen.values()
        )

    @property
    def coarse(self) -> bool:
        """Whether no output is changed by rounding: whole numbers, or values at the end of their range."""
        return bool(self._seen) and not any(seen.rounds for seen in self._seen.values())

    @property
    def notes(self) -> list[str]:
        """One sentence for each output that does not differ between samples, or by little, if any output differs."""
        found = []
        for name, seen in self._seen.items():
            if seen.samples < 2 or self.blind:
                continue
            if not seen.varies:
                found.append(f"{name}: the same for all samples, so a fault in the layers before it may not show")
            elif seen.spread < LEAST_SPREAD:
                share = f"{100 / seen.spread:.0f} %"
                found.append(
                    f"{name}: the tolerance is {share} of the largest difference between samples, so small faults do "
                    "not show"
                )
        return found

    def look(self, name: str, a: Tensor, limit: Tensor, axis: int | None, floor: Floor | None) -> None:
        """Record whether an output differs between samples, within a batch and between batches.

        Args:
            name: name of the output.
            a: its value.
            limit: the tolerance of each element.
            axis: its batch axis; ``None`` if it has none.
            floor: its rounding noise; ``None`` if it was not measured.
        """
        values = a.detach().cpu().double()
        if not values.numel():
            return
        batched = axis is not None and axis < values.dim()
        first = values.narrow(axis, 0, 1) if batched and axis is not None else values
        seen = self._seen.setdefault(name, _Seen(first))
        seen.samples += values.shape[axis] if batched and axis is not None else 1
        seen.spread = max(seen.spread, _spread(values, first, limit))
        if seen.first.shape == first.shape:
            seen.spread = max(seen.spread, _spread(first, seen.first, limit))
        seen.elements_vary = seen.elements_vary or bool((values != values.flatten()[0]).any())
        noisy = floor.noisy if floor is not None else bool((values != values.round()).any())
        seen.rounds = seen.rounds or (a.is_floating_point() and noisy)


def _spread(values: Tensor, first: Tensor, limit: Tensor) -> float:
    """Return the largest difference of samples from the first one, as a multiple of the tolerance."""
    gap = compare.difference(values, first.expand_as(values))
    ratio = gap / limit  # infinite without a tolerance; 0 / 0 is no difference
    return float(ratio.nan_to_num(nan=0.0, posinf=math.inf).max())
