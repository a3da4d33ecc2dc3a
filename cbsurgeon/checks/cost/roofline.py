"""What share of a model's latency an operator can have, from FLOPs, bytes and how it is fused, on named hardware.

Two numbers per row. ``least``: both the model and the operator run at the roofline (peak arithmetic or peak bandwidth,
whichever is slower, no launch costs). ``estimate``: both at what kernels usually reach, plus the cost of every kernel,
the model's and those the operator adds. Neither is a measurement; ``bench`` is. What an operator moves in each form it
says itself (:class:`cbsurgeon.operators.Traffic`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cbsurgeon.checks.cost.counts import Audit, Count, Inserted
from cbsurgeon.checks.cost.hardware import CPU_KERNEL, GPU_KERNEL, HARDWARE, ITEM, Hardware
from cbsurgeon.checks.cost.rules import KERNELS
from cbsurgeon.errors import UsageError
from cbsurgeon.operators.common.cost import FORMS

NEGLIGIBLE = 0.01
"""A share above this is called out."""

REACHED_ARITHMETIC, REACHED_BANDWIDTH = 0.6, 0.8
"""Parts of the peaks that good kernels usually reach: assumptions of the estimate, stated with it."""

ASSUMED = (
    f"estimate: {100 * REACHED_ARITHMETIC:g} % of the peak arithmetic, {100 * REACHED_BANDWIDTH:g} % of the bandwidth, "
    f"{1e6 * GPU_KERNEL:g} µs for each kernel on a GPU, {1e6 * CPU_KERNEL:g} µs on the generic CPU; least: the peaks, "
    "and nothing for kernels"
)


@dataclass(frozen=True)
class Share:
    """One row: the operator's part of the latency.

    Attributes:
        hardware, dtype, form: what the row is for.
        batch: images per call.
        model_seconds: the model alone at the roofline.
        operator_seconds: the operators alone at the roofline.
        operator_bytes, operator_operations, kernels: what the operators move, compute and launch.
        least: ``operator / (model + operator)`` at the roofline.
        estimate: the same at usual efficiency, kernels counted.
    """

    hardware: str
    dtype: str
    form: str
    batch: int
    model_seconds: float
    operator_seconds: float
    operator_bytes: int
    operator_operations: int
    kernels: int
    least: float
    estimate: float

    @property
    def negligible(self) -> bool:
        """Whether the estimate stays at or below :data:`NEGLIGIBLE`."""
        return self.estimate <= NEGLIGIBLE

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**asdict(self), "negligible": self.negligible}


def shares(
    counted: Audit,
    *,
    hardware: Iterable[Hardware] = HARDWARE,
    dtypes: Iterable[str] = ("float32", "float16"),
) -> tuple[Share, ...]:
    """The table for an audit of a model A and the same model with operators B, at the audit's batch.

    A dtype that a device does not compute in has no row, a form that no inserted operator has neither. Where several
    operators are inserted, one that lacks a form counts in the next slower form it has.

    Raises:
        ValueError: the audit has no B, or B has no inserted operator.
    """
    if counted.b is None or not counted.b.inserted:
        raise ValueError("a roofline of operators needs an audit of a model and of the same model with operators")
    forms = _forms(counted.b.inserted)
    return tuple(
        _share(counted, device, dtype, form)
        for device in hardware
        for dtype in dtypes
        if dtype in device.peak
        for form in forms
    )


def _forms(inserted: Iterable[Inserted]) -> list[str]:
    """The forms that at least one operator has, from the slowest to the fastest."""
    stated = {traffic.form for item in inserted for traffic in item.traffic}
    return [form for form in FORMS if form in stated]


def roofline(
    counted: Audit, *, hardware: Sequence[Hardware] = HARDWARE, dtypes: Sequence[str] = ("float32", "float16")
) -> dict[str, Any]:
    """The table as a document: its rows, what they assume, and in words where the operators are not negligible.

    Args:
        counted: an audit of a model and of the same model with operators.
        hardware: devices.
        dtypes: types to compute in; a device that lacks one is named under ``left_out``.

    Raises:
        UsageError: there is no operator to tell the share of (CB-AUDIT-02), or no device computes in the types
            (CB-AUDIT-03).
    """
    if counted.b is None or not counted.b.inserted:
        raise UsageError(
            "there is no inserted operator to tell the share of",
            code="CB-AUDIT-02",
            where=f"{counted.a.reference}{f' -> {counted.b.reference}' if counted.b else ''}",
            why="a roofline compares a model with the same model after insert",
            do="cbsurgeon audit MODEL MODEL-cb.safetensors --roofline",
        )
    rows = shares(counted, hardware=hardware, dtypes=dtypes)
    if not rows:
        raise UsageError(
            f"no device that was asked for computes in {', '.join(dtypes)}",
            code="CB-AUDIT-03",
            where=", ".join(device.name for device in hardware),
            do="--dtype float32",
        )
    return {
        "negligible_at": NEGLIGIBLE,
        "batch": counted.batch,
        "hardware": [{"name": device.name, "source": device.source} for device in hardware],
        "forms": {form: FORMS[form] for form in _forms(counted.b.inserted)},
        "assumed": ASSUMED,
        "rows": [row.to_dict() for row in rows],
        "not_negligible": _felt(rows),
        "left_out": [f"{device.name}: {kind}" for device in hardware for kind in dtypes if kind not in device.peak],
    }


def _felt(rows: Iterable[Share]) -> list[str]:
    """Where the estimate is above :data:`NEGLIGIBLE`: one text for each device and type, forms with their shares."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if not row.negligible:
            found.setdefault(f"{row.hardware}, {row.dtype}", []).append(f"{row.form} {100 * row.estimate:.1f} %")
    return [f"{place}: {', '.join(forms)}" for place, forms in found.items()]


def _share(counted: Audit, device: Hardware, dtype: str, form: str) -> Share:
    assert counted.b is not None
    inserted, batch, fused = counted.b.inserted, counted.batch, form != next(iter(FORMS))
    scale = ITEM[dtype] / ITEM.get(counted.dtype, 4)
    model = model_seconds(counted.a, device, dtype, scale, fused=fused)
    likely = model_seconds(counted.a, device, dtype, scale, fused=fused, reached=True)
    likely += device.kernel * model_kernels(counted.a, fused=fused)
    used = [(item.calls, item.in_form(form)) for item in inserted]
    moved = sum(calls * traffic.moved(batch) for calls, traffic in used) * ITEM[dtype]
    operations = sum(item.tally.operations for item in inserted)
    kernels = sum(calls * traffic.kernels for calls, traffic in used)
    extra = max(moved / device.bandwidth, operations / device.peak[dtype])
    likely_extra = kernels * device.kernel + max(
        moved / device.bandwidth / REACHED_BANDWIDTH, operations / device.peak[dtype] / REACHED_ARITHMETIC
    )
    return Share(
        device.name,
        dtype,
        form,
        batch,
        model,
        extra,
        moved,
        operations,
        kernels,
        extra / (model + extra),
        likely_extra / (likely + likely_extra),
    )


def model_seconds(
    count: Count, device: Hardware, dtype: str, scale: float, *, fused: bool, reached: bool = False
) -> float:
    """The model's time: per kind of operator the slower of arithmetic and memory.

    Args:
        count: the model.
        device, dtype: where, in what.
        scale: bytes of ``dtype`` per byte counted.
        fused: count products, norms and reductions only; pointwise operators join their kernels.
        reached: at the efficiency kernels usually reach instead of at the peaks.
    """
    arithmetic = device.peak[dtype] * (REACHED_ARITHMETIC if reached else 1.0)
    bandwidth = device.bandwidth * (REACHED_BANDWIDTH if reached else 1.0)
    return sum(
        max(part.operations / arithmetic, part.bytes * scale / bandwidth)
        for name, part in count.by_operator.items()
        if not fused or name in KERNELS
    )


def model_kernels(count: Count, *, fused: bool) -> int:
    """Kernels the model launches: those of :data:`KERNELS` when pointwise operators are fused, else every operator."""
    return sum(calls for name, calls in count.calls.items() if not fused or name in KERNELS)
