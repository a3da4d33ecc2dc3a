"""Comparing the audit's count with fvcore's, and explaining the difference operator by operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cbsurgeon.checks.cost.auditing import Side, count
from cbsurgeon.checks.cost.traced import TracedCount, count_traced
from cbsurgeon.errors import CheckFailed, UsageError
from cbsurgeon.models.model import Model

NORMS = ("layer_norm", "group_norm", "batch_norm", "instance_norm")


@dataclass(frozen=True)
class Explained:
    """One operator that the audit and fvcore count differently.

    Attributes:
        operator: its name in the trace.
        ours, fvcore: FLOPs at batch 1.
        why: the reason.
    """

    operator: str
    ours: int
    fvcore: int
    why: str


@dataclass(frozen=True)
class CrossCheck:
    """One model counted by the audit and by fvcore, at batch 1.

    Attributes:
        reference: the model.
        ours: FLOPs as the paper counts them.
        fvcore: FLOPs by fvcore's own rules.
        explained: every operator that the two count differently; their differences add up to ``ours - fvcore``.
        unexplained: difference in FLOPs that remains if fvcore's trace is counted as the paper counts.
        unexplained_operations: the same for all operations.
        uncounted: traced operator without a counting rule → number of calls.
    """

    reference: str
    ours: int
    fvcore: int
    explained: tuple[Explained, ...]
    unexplained: int
    unexplained_operations: int
    uncounted: Mapping[str, int]

    def __bool__(self) -> bool:
        """True if the difference is explained completely."""
        return not self.unexplained and not self.unexplained_operations

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**asdict(self), "ok": bool(self), "difference": self.ours - self.fvcore, "batch": 1}

    def raise_if_failed(self) -> None:
        """Raise an error if the two counts disagree.

        Raises:
            CheckFailed: part of the difference is unexplained (CB-COST-02).
        """
        if not self:
            listed = ", ".join(f"{name} x{calls}" for name, calls in self.uncounted.items())
            raise CheckFailed(
                "the audit and fvcore count this model differently",
                code="CB-COST-02",
                where=self.reference,
                why=f"{self.unexplained:+,} FLOPs and {self.unexplained_operations:+,} operations are not explained"
                + (f"; no rule for {listed} in the trace" if listed else ""),
                do="do not rely on either count; compare the two by operator in the --json output",
            )


def cross_check(side: Side) -> CrossCheck:
    """Count a model at batch 1 both from its exported graph and from fvcore's trace.

    Raises:
        MissingPackage: fvcore is not installed.
        UsageError: it is a file or an exported program, which fvcore cannot trace (CB-COST-01).
        CaptureError: the model cannot be captured.
    """
    if not isinstance(side, Model):
        raise UsageError(
            "fvcore cannot count a file",
            code="CB-COST-01",
            where=str(side),
            why="it traces a module on example inputs",
            do="leave out --cross-check, or give a model instead of the file",
        )
    traced, ours = count_traced(side), count(side, batch=1)
    return CrossCheck(
        ours.reference,
        ours.total.flops,
        sum(traced.own.values()),
        tuple(_explained(traced)),
        ours.total.flops - sum(traced.flops.values()) - traced.inserted,
        ours.total.operations - traced.operations,
        dict(traced.uncounted),
    )


def _explained(traced: TracedCount) -> list[Explained]:
    rows = [
        Explained(name, traced.flops.get(name, 0), traced.own.get(name, 0), _why(name, traced))
        for name in dict.fromkeys([*traced.own, *traced.flops])
        if traced.flops.get(name, 0) != traced.own.get(name, 0)
    ]
    if traced.inserted:
        why = "the formula of the inserted operators; their nodes are counted in the rows above"
        rows.append(Explained("inserted operators", traced.inserted, 0, why))
    return rows


def _why(name: str, traced: TracedCount) -> str:
    if name not in traced.own:
        return "fvcore has no rule for it and counts zero"
    if name not in traced.flops:
        return "it contains no multiply-accumulate as the paper counts them"
    if name in NORMS:
        return "fvcore counts every operation, the paper's convention only the multiplication by the weight"
    return "fvcore's rule for it differs"
