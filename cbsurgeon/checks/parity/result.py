"""What a parity check and a bisection yield."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from cbsurgeon.errors import CheckFailed

SCHEMA = "cbsurgeon.verify/1"


@dataclass(frozen=True)
class Tolerance:
    """What two sides may differ by: ``|a - b| <= atol + rtol * |b|`` elementwise, and ``rel_l2`` over the tensor.

    Attributes:
        atol: absolute part.
        rtol: relative part.
        rel_l2: limit on ``|a - b|_2 / |b|_2``; ``None`` when the user gave a tolerance of their own.
        source: ``given``, ``measured`` (from the rounding noise of this model on these inputs) or ``estimated``
            (from the dtype alone, because no float64 reference could be run).
        reason: in one sentence, how the numbers came about.
    """

    atol: float
    rtol: float
    rel_l2: float | None
    source: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "atol": self.atol,
            "rtol": self.rtol,
            "rel_l2": self.rel_l2,
            "source": self.source,
            "reason": self.reason,
        }

    def __str__(self) -> str:
        gate = "" if self.rel_l2 is None else f" / rel L2 {self.rel_l2:.1e}"
        return f"atol {self.atol:.1e} / rtol {self.rtol:.1e}{gate} ({self.source})"


@dataclass(frozen=True)
class Side:
    """One of the two things compared.

    Attributes:
        name: the file or the model's reference.
        backend: what ran it: ``eager``, ``program``, ``compile``, ``onnxruntime``, ``tensorrt``.
        device: ``cpu`` or ``cuda``.
        dtype: floating type it computes in.
    """

    name: str
    backend: str
    device: str
    dtype: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"name": self.name, "backend": self.backend, "device": self.device, "dtype": self.dtype}

    def __str__(self) -> str:
        return f"{self.name} ({self.backend}, {self.device}, {self.dtype})"


@dataclass(frozen=True)
class Row:
    """One output compared on one set of inputs.

    Attributes:
        inputs: ``generated``, ``large`` (magnitude) or the name of the user's file.
        batch: number of samples.
        output: name of the output.
        max_abs: largest elementwise difference; infinite when the two disagree about what is finite.
        rel_l2: L2 norm of the difference over that of the second side.
        cosine: cosine of the two flattened outputs.
        top1: share of samples with the same largest class, for outputs of shape ``[batch, classes]``, else ``None``.
        noise: rounding noise measured at this output, as a largest difference from float64; ``None`` if not measured.
        would_pass_at: smallest absolute tolerance under which this row passes.
        tolerance: what was allowed here.
        ok: whether it passed.
    """

    inputs: str
    batch: int
    output: str
    max_abs: float
    rel_l2: float
    cosine: float
    top1: float | None
    noise: float | None
    would_pass_at: float
    tolerance: Tolerance
    ok: bool

    @property
    def severity(self) -> float:
        """How much of what is allowed was used; above 1 the row fails."""
        limit = self.tolerance
        shares = [self.would_pass_at / limit.atol if limit.atol > 0 else (float("inf") if self.would_pass_at else 0.0)]
        if limit.rel_l2:
            shares.append(self.rel_l2 / limit.rel_l2)
        return max(shares)

    def to_dict(self) -> dict[str, Any]:
        """JSON form; non-finite numbers as ``null``."""
        return {
            "inputs": self.inputs,
            "batch": self.batch,
            "output": self.output,
            "max_abs": _finite(self.max_abs),
            "rel_l2": _finite(self.rel_l2),
            "cosine": _finite(self.cosine),
            "top1": self.top1,
            "noise": self.noise,
            "would_pass_at": _finite(self.would_pass_at),
            "tolerance": self.tolerance.to_dict(),
            "ok": self.ok,
        }


@dataclass(frozen=True)
class BlockGap:
    """How far two sides are apart after one block.

    Attributes:
        block: module path of the block.
        node: the value compared, by its node name in the program.
        max_abs, rel_l2, cosine: the difference there.
        allowed: largest relative L2 difference that rounding explains there.
        would_pass_at: the absolute tolerance under which it would pass.
        ok: whether it is explained by rounding.
    """

    block: str
    node: str
    max_abs: float
    rel_l2: float
    cosine: float
    allowed: float
    would_pass_at: float
    ok: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "block": self.block,
            "node": self.node,
            "max_abs": _finite(self.max_abs),
            "rel_l2": _finite(self.rel_l2),
            "cosine": _finite(self.cosine),
            "allowed": _finite(self.allowed),
            "would_pass_at": _finite(self.would_pass_at),
            "ok": self.ok,
        }


@dataclass(frozen=True)
class Bisection:
    """Where two sides part.

    Attributes:
        gaps: every block compared, in graph order.
        sides: what was compared.
        first: index into ``gaps`` of the first block rounding does not explain, or ``None``.
    """

    gaps: tuple[BlockGap, ...]
    sides: tuple[Side, Side]
    first: int | None

    def __bool__(self) -> bool:
        """True when no block parts."""
        return self.first is None

    @property
    def block(self) -> str | None:
        """Path of the first block that parts."""
        return None if self.first is None else self.gaps[self.first].block

    @property
    def before(self) -> float | None:
        """Largest difference after the block before it (0 when it is the first)."""
        if self.first is None:
            return None
        return self.gaps[self.first - 1].max_abs if self.first else 0.0

    @property
    def after(self) -> float | None:
        """Largest difference after it."""
        return None if self.first is None else self.gaps[self.first].max_abs

    @property
    def would_pass_at(self) -> float | None:
        """The absolute tolerance at that block under which it would pass."""
        return None if self.first is None else self.gaps[self.first].would_pass_at

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "block": self.block,
            "before": _finite(self.before),
            "after": _finite(self.after),
            "would_pass_at": _finite(self.would_pass_at),
            "sides": [side.to_dict() for side in self.sides],
            "blocks": [gap.to_dict() for gap in self.gaps],
        }

    def __str__(self) -> str:
        if self.first is None:
            return f"no block parts ({len(self.gaps)} compared)"
        return f"first bad block: {self.block}  (max |Δ| {self.after:.1e}, previous block {self.before:.1e})"


@dataclass(frozen=True)
class Verification:
    """Whether two sides compute the same thing.

    Attributes:
        a, b: what was compared; ``b`` is judged against ``a``.
        rows: one per set of inputs, batch and output.
        reference: what the rounding noise was measured against: ``float64 program``, or ``none: <reason>``.
        bisection: where they part, when that was asked for.
        notes: facts that weaken or explain the answer.
        seconds: time the whole check took.
    """

    a: Side
    b: Side
    rows: tuple[Row, ...]
    reference: str
    bisection: Bisection | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return self.ok

    @property
    def ok(self) -> bool:
        """All rows passed."""
        return bool(self.rows) and all(row.ok for row in self.rows)

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

    def raise_if_failed(self) -> Verification:
        """Return itself, or raise.

        Raises:
            CheckFailed: parity failed (CB-VERIFY-01): where, what was allowed, and what would pass.
        """
        if self.ok:
            return self
        row = self.worst
        place = f"output {row.output}, batch {row.batch}, {row.inputs} inputs  (max |Δ| {row.max_abs:.1e})"
        raise CheckFailed(
            f"parity failed: {self.b} against {self.a} (batch {row.batch})",
            code="CB-VERIFY-01",
            where=str(self.bisection) if self.first_bad_block else place,
            why=f"allowed {row.tolerance}; would pass at atol {self.would_pass_at:.1e}",
            do=f"cbsurgeon verify {self.a.name} {self.b.name} --bisect --json > bad.json",
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``cbsurgeon.verify/1``."""
        return {
            "schema": SCHEMA,
            "ok": self.ok,
            "max_abs": _finite(self.max_abs),
            "rel_l2": _finite(self.rel_l2),
            "tolerance": self.tolerance.to_dict(),
            "would_pass_at": _finite(self.would_pass_at),
            "first_bad_block": self.first_bad_block,
            "reference": self.reference,
            "sides": [self.a.to_dict(), self.b.to_dict()],
            "rows": [row.to_dict() for row in self.rows],
            "bisection": self.bisection.to_dict() if self.bisection is not None else None,
            "notes": list(self.notes),
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        head = f"{'same' if self.ok else 'DIFFERENT'}: {self.b} against {self.a}"
        rows = [
            f"  [{'✓' if row.ok else 'x'}] batch {row.batch:<3} {row.inputs:<10} {row.output:<16} "
            f"max |Δ| {row.max_abs:.1e}  rel L2 {row.rel_l2:.1e}  cosine {row.cosine:.6f}"
            + ("" if row.top1 is None else f"  top-1 {row.top1:.0%}")
            + f"  allowed {row.tolerance.atol:.1e}"
            for row in self.rows
        ]
        tail = [f"  noise measured against: {self.reference}", *(f"  note: {note}" for note in self.notes)]
        if not self.ok:
            tail.append(f"  would pass at atol {self.would_pass_at:.1e}")
        if self.bisection is not None:
            tail.append(f"  {self.bisection}")
        return "\n".join([head, *rows, *tail])


def _finite(value: float | None) -> float | None:
    """JSON has no infinity; a number that is not finite becomes ``null``."""
    return value if value is not None and value - value == 0.0 else None
