"""The result of a leak probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cbsurgeon.errors import CheckFailed

ROUNDINGS = 100
"""Allowed change in machine epsilons of the output's largest magnitude. A kernel may sum a shorter sequence in another
order, which adds up to some tens of roundings in a deep network; a leaking token mean changes outputs by far more."""


@dataclass(frozen=True)
class Gap:
    """The change of an output that must not change.

    Attributes:
        probe: ``suffix`` (later tokens were changed), ``filler`` (padding was changed), ``length`` (padding was cut
            off) or ``alone`` (the sample ran by itself).
        output: name of the output.
        max_abs: the largest change of a value.
        scale: the largest magnitude of the output.
        eps: machine epsilon of the output's type.
    """

    probe: str
    output: str
    max_abs: float
    scale: float
    eps: float

    @property
    def leaks(self) -> bool:
        """Whether it changed by more than rounding."""
        return self.max_abs > self.tolerance

    @property
    def tolerance(self) -> float:
        """The change that rounding may cause."""
        return ROUNDINGS * self.eps * self.scale


@dataclass(frozen=True)
class Leak:
    """The result of one kind of probe.

    Attributes:
        kind: ``future`` or ``padding``.
        reference: the model.
        what: description of what was changed.
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
        """Whether no leak was found."""
        return not any(gap.leaks for gap in self.gaps)

    @property
    def probed(self) -> bool:
        """Whether anything was compared."""
        return bool(self.gaps)

    def raise_if_failed(self) -> None:
        """Raise an error if a leak was found.

        Raises:
            CheckFailed: an output changed (CB-LEAK-03).
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
            why=f"{self.what}; outputs that must not change changed by {worst.max_abs:.2e} (largest value: "
            f"{worst.scale:.2e})",
            do="remove the operator, or use its causal or masked form",
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
