"""The roofline model: the inserted operators' share of a model's latency, from FLOPs and bytes, per device.

There are two numbers per row. ``least`` assumes that model and operators run at the roofline (peak arithmetic or peak
bandwidth, whichever is slower, without launch costs). ``estimate`` assumes the efficiency that kernels usually reach,
and adds a cost per kernel for the model and the operators. Neither is a measurement; ``bench`` measures. Each operator
defines its own memory traffic (:class:`cbsurgeon.operators.Traffic`).
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
"""A share above this is listed as not negligible."""

REACHED_ARITHMETIC, REACHED_BANDWIDTH = 0.6, 0.8
"""Fractions of the peaks that good kernels usually reach: assumptions, which are printed with the estimate."""

ASSUMED = (
    f"estimate: {100 * REACHED_ARITHMETIC:g} % of the peak arithmetic, {100 * REACHED_BANDWIDTH:g} % of the bandwidth, "
    f"{1e6 * GPU_KERNEL:g} µs per kernel on a GPU, {1e6 * CPU_KERNEL:g} µs on the generic CPU; at the peaks: all of "
    "both, without a cost per kernel, so a share can be above its estimate"
)


@dataclass(frozen=True)
class Share:
    """One row of the roofline table: the operators' share of the latency.

    Attributes:
        hardware, dtype, form: device, type and form of the operators.
        batch: images per call.
        model_seconds: time of the model without operators, at the roofline.
        operator_seconds: time of the operators, at the roofline.
        operator_bytes, operator_operations, kernels: bytes, operations and kernels of the operators.
        least: ``operator / (model + operator)`` at the roofline.
        estimate: the same at usual efficiency, with a cost per kernel.
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
        """Whether the estimate is at most :data:`NEGLIGIBLE`."""
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
    """Return the rows for an audit of a model A and of the same model with operators B, at the audit's batch.

    There is no row for a dtype that a device does not support, nor for a form that no inserted operator has. An
    operator that lacks a form counts in its next slower form.

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
    """Return the forms that at least one operator has, slowest first."""
    stated = {traffic.form for item in inserted for traffic in item.traffic}
    return [form for form in FORMS if form in stated]


def roofline(
    counted: Audit, *, hardware: Sequence[Hardware] = HARDWARE, dtypes: Sequence[str] = ("float32", "float16")
) -> dict[str, Any]:
    """Return the table as a JSON document: rows, assumptions, and the cases in which operators are not negligible.

    Args:
        counted: an audit of a model and of the same model with operators.
        hardware: the devices.
        dtypes: the types; a device that does not support one is listed under ``left_out``.

    Raises:
        UsageError: no operator is inserted (CB-AUDIT-02), or no device supports the types (CB-AUDIT-03).
    """
    if counted.b is None or not counted.b.inserted:
        raise UsageError(
            "no operator is inserted, so there is no share to compute",
            code="CB-AUDIT-02",
            where=f"{counted.a.reference}{f' -> {counted.b.reference}' if counted.b else ''}",
            why="a roofline compares a model with the same model after insert",
            do="cbsurgeon audit MODEL MODEL-cb.safetensors --roofline",
        )
    rows = shares(counted, hardware=hardware, dtypes=dtypes)
    if not rows:
        raise UsageError(
            f"none of these devices supports {', '.join(dtypes)}",
            code="CB-AUDIT-03",
            where=", ".join(device.name for device in hardware),
            why="their data sheets give no rate for these types",
            do="--dtype float32",
        )
    return {
        "negligible_at": NEGLIGIBLE,
        "batch": counted.batch,
        "hardware": [{"name": device.name, "source": device.source} for device in hardware],
        "forms": {form: FORMS[form] for form in _forms(counted.b.inserted)},
        "assumed": ASSUMED,
        "rows": [row.to_dict() for row in rows],
        "not_negligible": _noticeable(rows),
        "left_out": [f"{device.name}: {kind}" for device in hardware for kind in dtypes if kind not in device.peak],
    }


def _noticeable(rows: Iterable[Share]) -> list[str]:
    """Return one text per device and type with the forms whose estimate is above :data:`NEGLIGIBLE`."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if not row.negligible:
            found.setdefault(f"{row.hardware}, {row.dtype}", []).append(f"{row.form} {100 * row.estimate:.1f} %")
    return [f"{device}: {', '.join(forms)}" for device, forms in found.items()]


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
    """Return the model's time: for each kind of operator, the slower of arithmetic and memory, summed.

    Args:
        count: the model.
        device, dtype: where and in which type it runs.
        scale: bytes in ``dtype`` per counted byte.
        fused: count only products, norms and reductions; pointwise operators are fused into their kernels.
        reached: use the efficiency that kernels usually reach instead of the peaks.
    """
    arithmetic = device.peak[dtype] * (REACHED_ARITHMETIC if reached else 1.0)
    bandwidth = device.bandwidth * (REACHED_BANDWIDTH if reached else 1.0)
    return sum(
        max(part.operations / arithmetic, part.bytes * scale / bandwidth)
        for name, part in count.by_operator.items()
        if not fused or name in KERNELS
    )


def model_kernels(count: Count, *, fused: bool) -> int:
    """Return the number of kernels: with fusion only operators in :data:`KERNELS`, else every operator."""
    return sum(calls for name, calls in count.calls.items() if not fused or name in KERNELS)
