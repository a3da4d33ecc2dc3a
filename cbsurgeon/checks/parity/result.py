"""The result of a parity check."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cbsurgeon.checks.parity.located import Bisection
from cbsurgeon.checks.parity.row import Row, Side, Tolerance, finite
from cbsurgeon.errors import CheckFailed
from cbsurgeon.vocabulary import inputs_called

SCHEMA = "cbsurgeon.verify/1"


@dataclass(frozen=True)
class Verification:
    """Whether two models compute the same outputs.

    Attributes:
        a, b: what was compared; ``b`` is judged against ``a``.
        rows: one per set of inputs, batch and output.
        reference: the reference for rounding noise: ``float64 program``, or ``none: <reason>``.
        bisection: the first block that differs, if requested.
        notes: facts that limit or explain the result.
        failures: failures of a whole model rather than of one row.
        seconds: duration of the whole check.
        images: results on real images, if a dataset was given: ``samples``, the fraction with the same top class
            (``top1``), and ``largest_margin_lost``, the largest margin in A of its own top class over B's.
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
        """Whether all rows passed and there are no failures."""
        return bool(self.rows) and not self.failures and all(row.ok for row in self.rows)

    @property
    def worst(self) -> Row:
        """The row that uses the largest part of its tolerance; failing rows first."""
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
        """The absolute tolerance with which every row would pass."""
        return max(row.would_pass_at for row in self.rows)

    @property
    def tolerance(self) -> Tolerance:
        """The tolerance of the worst row."""
        return self.worst.tolerance

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes that ran, in order."""
        return tuple(dict.fromkeys(row.batch for row in self.rows))

    @property
    def first_bad_block(self) -> str | None:
        """Path of the first block that differs; ``None`` if no bisection ran or found one."""
        return None if self.bisection is None else self.bisection.block

    def with_bisection(self, bisection: Bisection) -> Verification:
        """Return the same result with a bisection added."""
        return replace(self, bisection=bisection)

    def raise_if_failed(self, flags: str = "") -> Verification:
        """Return the result itself, or raise an error if parity failed.

        Args:
            flags: further flags for the command in the message, such as ``--arch timm:vit_base_patch16_224``.

        Raises:
            CheckFailed: parity failed (CB-VERIFY-01); the message names the output or block, the tolerance, and the
                tolerance that would pass.
        """
        if self.ok:
            return self
        row, names = self.worst, (shlex.quote(side.name) for side in (self.a, self.b))
        reasons = [*self.failures, *([row.reason] if row.reason else [])]
        place = f"output {row.output!r}, batch {row.batch}, {inputs_called(row.inputs)}  (max |Δ| {row.max_abs:.1e})"
        raise CheckFailed(
            f"parity failed: {self.b} against {self.a} (batch {row.batch})",
            code="CB-VERIFY-01",
            where=str(self.bisection) if self.first_bad_block else place,
            why="; ".join([*reasons, f"tolerance {row.tolerance}", *self._remedy()]),
            do=f"if {self.b.name} is meant to differ, compare it with the model it was made from"
            if self.first_bad_block
            else " ".join(filter(None, ("cbsurgeon verify", *names, flags, "--bisect --json > bad.json"))),
        )

    def _remedy(self) -> list[str]:
        """Return the absolute tolerance that would pass, if one would."""
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
        tail += [f"  reference for rounding noise: {self.reference}", *(f"  note: {note}" for note in self.notes)]
        if not self.ok:
            tail += [f"  {remedy}" for remedy in self._remedy()]
        if self.bisection is not None:
            tail.append(f"  {self.bisection}")
        return "\n".join([head, *rows, *tail])
