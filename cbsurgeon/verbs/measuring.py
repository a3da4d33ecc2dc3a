"""``audit`` and ``bench``, and what their command lines add to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cbsurgeon.checks import Audit, Benchmark, Sweep, audit, bench
from cbsurgeon.checks.cost import roofline
from cbsurgeon.checks.cost.crosscheck import CrossCheck, cross_check
from cbsurgeon.checks.cost.hardware import NAMES, described, named
from cbsurgeon.models import Model
from cbsurgeon.operators.registry import operator_class
from cbsurgeon.report import notebook
from cbsurgeon.verbs.comparing import Side
from cbsurgeon.vocabulary import Progress

__all__ = ["audit", "bench", "can_fold", "cross_checked", "shares_of_latency"]

notebook.install(Audit, Benchmark, Sweep)


def can_fold(side: Side) -> bool:
    """Whether a model has an inserted operator that export can fold into the weights; an exported file has none."""
    if not isinstance(side, Model):
        return False
    return any(not operator_class(recipe["op"]).folding(**recipe["options"]).reason for recipe in side.recipes)


def cross_checked(models: Sequence[Side], *, progress: Progress | None = None) -> list[CrossCheck]:
    """Compare the audit's count of each model with fvcore's, at batch 1.

    Args:
        models: the models given to :func:`cbsurgeon.audit`.
        progress: called with a message for each model.

    Raises:
        MissingPackage: fvcore is not installed.
        UsageError: one is a file or an exported program (CB-COST-01).
    """
    found = []
    for model in models:
        if progress:
            progress(f"counting with fvcore: {model.provenance.reference if isinstance(model, Model) else model}")
        found.append(cross_check(model))
    return found


def shares_of_latency(
    counted: Audit,
    *,
    hardware: Sequence[str] = tuple(NAMES),
    dtypes: Sequence[str] = ("float32", "float16"),
    bandwidth: str | float | None = None,
    flops: str | float | None = None,
) -> dict[str, Any]:
    """Return the inserted operators' share of a model's latency on some hardware: a lower bound and an estimate.

    Args:
        counted: the audit of a model and of the same model with operators.
        hardware: names from :data:`cbsurgeon.checks.cost.hardware.NAMES`, or ``cpu``, which is measured.
        dtypes: the types.
        bandwidth, flops: your own device instead of the named ones, such as ``3.35TB/s`` and ``989T``; give both.

    Raises:
        UsageError: an unknown device, no inserted operator, no device that supports the types, or an invalid bandwidth
            or rate (CB-AUDIT-01 to 04).
    """
    own = bandwidth is not None or flops is not None
    devices = (described(bandwidth or "", flops or ""),) if own else named(hardware)
    return roofline.roofline(counted, hardware=devices, dtypes=dtypes)
