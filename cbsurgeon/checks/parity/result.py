"""The result of a parity check."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cbsurgeon.checks.parity.located import Bisection
from cbsurgeon.checks.parity.row import Row, Side, Tolerance, finite
from cbsurgeon.errors import CheckFailed

SCHEMA = "cbsurgeon.verify/1"


@dataclass(frozen=True)
class Verification:
    """Whether two models compute the same outputs.

    Attributes:
        a, b: what was compared; ``b`` is judged against ``a``.
        rows: one per set of inputs, batch and output.
        reference: what the rounding noise was measured against: ``float64 program``, or ``none: <reason>``.
        bisection: the first block that differs, when that was asked for.
        notes: facts that weaken or explain the answer.
        failures: what failed for the models as a whole, rather than in one row.
        seconds: time the whole check took.
        images: on real images, where a dataset was given: ``samples``, the share with the same largest class
            (``top1``), and the largest margin that the first side's class had over the second's.
    """

    a: Side
    b: Side
    rows: tuple[Row, ...]
    reference: str
    bisection: Bisection | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    failures: tuple[str, ...] = ()
    images: Mapping[str, Any] | None = None

    def __bool__(self) -> bool:
        return self.ok

    @property
    def ok(self) -> bool:
        """All rows passed, and nothing failed for the models as a whole."""
        return bool(self.rows) and not self.failures and all(row.ok for row in self.rows)

    @property
    def worst(self) -> Row:
        """The row nearest to, or furthest beyond, what it is allowed; failing rows first."""
        return max(self.rows, key=lambda row: (not row.ok, row.severity))

    @property
    def max_abs(self) -> float:
        """Largest difference over all rows."""
        return max(row.max_abs for row in self.rows)

    @property
    def rel_l2(self) -> float:
        """Largest relative L2 difference over all rows."""
        return max(row.rel_l2 for row in self.rows)

    @property
    def would_pass_at(self) -> float:
        """The absolute tolerance under which every row passes."""
        return max(row.would_pass_at for row in self.rows)

    @property
    def tolerance(self) -> Tolerance:
        """What the worst row was allowed."""
        return self.worst.tolerance

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes that ran, in order."""
        return tuple(dict.fromkeys(row.batch for row in self.rows))

    @property
    def first_bad_block(self) -> str | None:
        """Path of the block at which the sides part, when a bisection ran and found one."""
        return None if self.bisection is None else self.bisection.block

    def with_bisection(self, bisection: Bisection) -> Verification:
        """The same result with the place of the fault."""
        return replace(self, bisection=bisection)

    def raise_if_failed(self, flags: str = "") -> Verification:
        """Return itself, or raise.

        Args:
            flags: what else has to stand in the command of the message, such as ``--arch timm:vit_base_patch16_224``.

        Raises:
            CheckFailed: parity failed (CB-VERIFY-01): where, what was allowed, and what would pass.
        """
        if self.ok:
            return self
        row, names = self.worst, (shlex.quote(side.name) for side in (self.a, self.b))
        reasons = [*self.failures, *([row.reason] if row.reason else [])]
        place = f"output {row.output}, batch {row.batch}, {row.inputs} inputs  (max |Δ| {row.max_abs:.1e})"
        raise CheckFailed(
            f"parity failed: {self.b} against {self.a} (batch {row.batch})",
            code="CB-VERIFY-01",
            where=str(self.bisection) if self.first_bad_block else place,
            why="; ".join([*reasons, f"allowed {row.tolerance}", *self._remedy()]),
            do=f"if {self.b.name} is meant to differ there, compare it with the model it was made from"
            if self.first_bad_block
            else " ".join(filter(None, ("cbsurgeon verify", *names, flags, "--bisect --json > bad.json"))),
        )

    def _remedy(self) -> list[str]:
        """The tolerance that would pass, where one would."""
        passes = not self.failures and all(row.ok or row.used > 1.0 for row in self.rows)
        return [f"would pass at atol {self.would_pass_at:.1e}"] if passes else []

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``cbsurgeon.verify/1``."""
        images = {} if self.images is None else {"images": dict(self.images)}
        return {
            "schema": SCHEMA,
            "ok": self.ok,
            "max_abs": finite(self.max_abs),
            "rel_l2": finite(self.rel_l2),
            **images,
            "tolerance": self.tolerance.to_dict(),
            "would_pass_at": finite(self.would_pass_at),
            "first_bad_block": self.first_bad_block,
            "reference": self.reference,
            "sides": [self.a.to_dict(), self.b.to_dict()],
            "rows": [row.to_dict() for row in self.rows],
            "bisection": self.bisection.to_dict() if self.bisection is not None else None,
            "notes": list(self.notes),
            "failures": list(self.failures),
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        head = f"{'same' if self.ok else 'DIFFERENT'}: {self.b} against {self.a}"
        rows = [
            f"  [{'✓' if row.ok else 'x'}] batch {row.batch:<3} {row.inputs:<10} {row.output:<16} "
            f"max |Δ| {row.max_abs:.1e}  rel L2 {row.rel_l2:.1e}  cosine {row.cosine:.6f}"
            + ("" if row.top1 is None else f"  top-1 {row.top1:.0%}")
            + f"  allowed {row.tolerance.atol:.1e}"
            + (f"  {row.reason}" if row.reason else "")
            for row in self.rows
        ]
        tail = [f"  failed: {failure}" for failure in self.failures]
        tail += [f"  noise measured against: {self.reference}", *(f"  note: {note}" for note in self.notes)]
        if not self.ok:
            tail += [f"  {remedy}" for remedy in self._remedy()]
        if self.bisection is not None:
            tail.append(f"  {self.bisection}")
        return "\n".join([head, *rows, *tail])
