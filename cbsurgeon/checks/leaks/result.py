"""What a probe for leaks saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cbsurgeon.errors import CheckFailed

ROUNDINGS = 100
"""A kernel may sum in another order when a sequence is shorter. Through a deep network that adds up to some tens of
roundings of the output's largest magnitude; a mean over tokens that should not be seen moves outputs by far more."""


@dataclass(frozen=True)
class Gap:
    """How far one output moved that should not have moved.

    Attributes:
        probe: ``suffix``, ``filler`` (what is hidden was changed) or ``length`` (what is hidden was cut off).
        output: name of the output.
        max_abs: the largest change of a value that must not move.
        scale: the largest magnitude of the output.
        eps: relative rounding of the output's type.
    """

    probe: str
    output: str
    max_abs: float
    scale: float
    eps: float

    @property
    def leaks(self) -> bool:
        """Whether it moved by more than rounding."""
        return self.max_abs > self.tolerance

    @property
    def tolerance(self) -> float:
        """The change that rounding may cause."""
        return ROUNDINGS * self.eps * self.scale


@dataclass(frozen=True)
class Leak:
    """What a probe saw.

    Attributes:
        kind: ``future`` or ``padding``.
        reference: the model.
        what: what was changed, in words.
        gaps: one per probe and output that was compared.
        not_run: probe or output → why it was not compared.
    """

    kind: str
    reference: str
    what: str
    gaps: tuple[Gap, ...]
    not_run: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether nothing moved that must not."""
        return not any(gap.leaks for gap in self.gaps)

    @property
    def probed(self) -> bool:
        """Whether anything was compared."""
        return bool(self.gaps)

    def raise_if_failed(self) -> None:
        """Turn a leak into an error.

        Raises:
            CheckFailed: something moved (CB-LEAK-03).
        """
        worst = max(
            (gap for gap in self.gaps if gap.leaks), key=lambda gap: gap.max_abs / (gap.scale or 1), default=None
        )
        if worst is None:
            return
        raise CheckFailed(
            f"the model leaks {'the future' if self.kind == 'future' else 'padding'}",
            code="CB-LEAK-03",
            where=f"{self.reference}, output {worst.output}",
            why=f"{self.what}; what that must not touch moved by {worst.max_abs:.2e} on values up to {worst.scale:.2e}",
            do="remove the operator, or use one that keeps to what each token may see",
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "kind": self.kind,
            "ok": self.ok,
            "probed": self.probed,
            "reference": self.reference,
            "what": self.what,
            "gaps": [
                {"probe": g.probe, "output": g.output, "max_abs": g.max_abs, "tolerance": g.tolerance, "leaks": g.leaks}
                for g in self.gaps
            ],
            "not_run": dict(self.not_run),
        }
