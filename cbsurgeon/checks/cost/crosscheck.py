"""The audit's count beside fvcore's, with the difference explained operator by operator."""

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
    """One operator that the two count differently.

    Attributes:
        operator: its name in the trace.
        ours, fvcore: FLOPs at batch 1.
        why: the reason, in words.
    """

    operator: str
    ours: int
    fvcore: int
    why: str


@dataclass(frozen=True)
class CrossCheck:
    """One model counted by the audit and by fvcore, at batch 1.

    Attributes:
        reference: which model.
        ours, fvcore: FLOPs in the paper's convention, and as fvcore counts with its own rules.
        explained: every operator the two count differently; the differences add up to the whole.
        unexplained: FLOPs that remain when fvcore's trace is counted by the paper's convention.
        unexplained_operations: the same of all operations.
        uncounted: traced operators that no rule covers → how many.
    """

    reference: str
    ours: int
    fvcore: int
    explained: tuple[Explained, ...]
    unexplained: int
    unexplained_operations: int
    uncounted: Mapping[str, int]

    def __bool__(self) -> bool:
        """True when the difference is explained to the last operation."""
        return not self.unexplained and not self.unexplained_operations

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**asdict(self), "ok": bool(self), "difference": self.ours - self.fvcore, "batch": 1}

    def raise_if_failed(self) -> None:
        """Raise where the two counts of one model disagree.

        Raises:
            CheckFailed: something is unexplained (CB-COST-02).
        """
        if not self:
            listed = ", ".join(f"{name} x{calls}" for name, calls in self.uncounted.items())
            raise CheckFailed(
                "the audit and fvcore count this model differently",
                code="CB-COST-02",
                where=self.reference,
                why=f"{self.unexplained:+,} FLOPs and {self.unexplained_operations:+,} operations are not explained"
                + (f"; no rule for {listed} in the trace" if listed else ""),
                do="trust neither count of this model; compare by_operator of the two in --json",
            )


def cross_check(side: Side) -> CrossCheck:
    """Count a model twice, from its exported graph and from fvcore's trace, at batch 1.

    Raises:
        MissingPackage: fvcore is not installed.
        UsageError: a file, or a model without a module, which fvcore cannot trace (CB-COST-01).
        CaptureError: the model cannot be captured.
    """
    if not isinstance(side, Model):
        raise UsageError(
            "fvcore cannot count a file",
            code="CB-COST-01",
            where=str(side),
            why="it traces a module on example inputs",
            do="leave out --cross-check, or the file",
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
        why = "the closed form of the inserted operators; their nodes are counted in the rows above"
        rows.append(Explained("inserted operators", traced.inserted, 0, why))
    return rows


def _why(name: str, traced: TracedCount) -> str:
    if name not in traced.own:
        return "fvcore has no rule for it and counts nothing"
    if name not in traced.flops:
        return "the paper's convention counts no multiply-accumulate in it"
    if name in NORMS:
        return "fvcore counts every operation on a value, the paper's convention the multiplication by the weight"
    return "fvcore has another rule for it"
