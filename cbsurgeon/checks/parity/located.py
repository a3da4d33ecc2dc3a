"""The result of a bisection: the difference of two residual streams after every block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cbsurgeon.checks.parity.row import Side, finite


@dataclass(frozen=True)
class BlockGap:
    """The difference of two residual streams after one block.

    Attributes:
        block: module path of the block.
        node: node name, in the program, of the value compared.
        max_abs, rel_l2, cosine: the difference.
        allowed: largest relative L2 difference that rounding explains.
        would_pass_at: the absolute tolerance with which it would pass.
        ok: whether rounding explains the difference.
        varies: whether the samples differ from each other, so that the comparison can show a fault.
    """

    block: str
    node: str
    max_abs: float
    rel_l2: float
    cosine: float
    allowed: float
    would_pass_at: float
    ok: bool
    varies: bool = True

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "block": self.block,
            "node": self.node,
            "max_abs": finite(self.max_abs),
            "rel_l2": finite(self.rel_l2),
            "cosine": finite(self.cosine),
            "allowed": finite(self.allowed),
            "would_pass_at": finite(self.would_pass_at),
            "ok": self.ok,
        }


@dataclass(frozen=True)
class Bisection:
    """The first block in which two models differ.

    Attributes:
        gaps: every block compared, in graph order.
        sides: the two models.
        first: index into ``gaps`` of the first block whose difference rounding does not explain, or ``None``.
    """

    gaps: tuple[BlockGap, ...]
    sides: tuple[Side, Side]
    first: int | None

    def __bool__(self) -> bool:
        """True if no block differs."""
        return self.first is None

    @property
    def block(self) -> str | None:
        """Path of the first block that differs."""
        return None if self.first is None else self.gaps[self.first].block

    @property
    def before(self) -> float | None:
        """Largest difference after the previous block (0 if there is none)."""
        if self.first is None:
            return None
        return self.gaps[self.first - 1].max_abs if self.first else 0.0

    @property
    def after(self) -> float | None:
        """Largest difference after that block."""
        return None if self.first is None else self.gaps[self.first].max_abs

    @property
    def would_pass_at(self) -> float | None:
        """The absolute tolerance with which that block would pass."""
        return None if self.first is None else self.gaps[self.first].would_pass_at

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "block": self.block,
            "before": finite(self.before),
            "after": finite(self.after),
            "would_pass_at": finite(self.would_pass_at),
            "sides": [side.to_dict() for side in self.sides],
            "blocks": [gap.to_dict() for gap in self.gaps],
        }

    def __str__(self) -> str:
        if self.first is None:
            return f"no block differs ({len(self.gaps)} compared)"
        return f"first bad block: {self.block}  (max |Δ| {self.after:.1e}, previous block {self.before:.1e})"
