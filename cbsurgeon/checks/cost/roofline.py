"""What share of a model's latency an operator can have, from FLOPs, bytes and how it is fused, on named hardware.

Two numbers per row. ``least``: both the model and the operator run at the roofline (peak arithmetic or peak bandwidth,
whichever is slower, no launch costs). ``estimate``: both at what kernels usually reach, plus the cost of every kernel,
the model's and those the operator adds. Neither is a measurement; ``bench`` is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cbsurgeon.checks.cost.counts import Audit, Count, Inserted
from cbsurgeon.checks.cost.rules import words
from cbsurgeon.errors import UsageError

NEGLIGIBLE = 0.01
"""A share above this is called out."""

ITEM = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes per element."""

REACHED_ARITHMETIC, REACHED_BANDWIDTH = 0.6, 0.8
"""Parts of the peaks that good kernels usually reach: assumptions of the estimate, stated with it."""

PRODUCTS = words(
    "linear matmul mm bmm addmm baddbmm einsum conv1d conv2d conv3d convolution scaled_dot_product_attention"
)
"""Operators that stay kernels of their own when everything pointwise is fused into its neighbours."""

REDUCTIONS = words("layer_norm group_norm rms_norm softmax mean adaptive_avg_pool2d")
"""Operators that read their input once more even then."""


@dataclass(frozen=True)
class Hardware:
    """Peaks of one device.

    Attributes:
        name: the device.
        source: where the numbers are from.
        bandwidth: bytes per second to its memory.
        peak: dtype → matrix operations per second, dense; missing where the device does not compute in it.
        kernel: seconds each further kernel costs at the least when replayed without launch gaps (an assumption).
    """

    name: str
    source: str
    bandwidth: float
    peak: Mapping[str, float]
    kernel: float


GPU_KERNEL = 1.5e-6

HARDWARE = (
    Hardware(
        "H200 SXM",
        "NVIDIA H200 Tensor Core GPU datasheet (dense: half of the figures with sparsity)",
        4.8e12,
        {"float32": 67e12, "float16": 989.5e12, "bfloat16": 989.5e12},
        GPU_KERNEL,
    ),
    Hardware(
        "A100 SXM 80 GB",
        "NVIDIA A100 Tensor Core GPU datasheet",
        2.039e12,
        {"float32": 19.5e12, "float16": 312e12, "bfloat16": 312e12},
        GPU_KERNEL,
    ),
    Hardware(
        "L4",
        "NVIDIA L4 Tensor Core GPU datasheet (dense: half of the figures with sparsity)",
        300e9,
        {"float32": 30.3e12, "float16": 121e12, "bfloat16": 121e12},
        GPU_KERNEL,
    ),
    Hardware(
        "T4",
        "NVIDIA T4 Tensor Core GPU datasheet (it has no bfloat16)",
        320e9,
        {"float32": 8.1e12, "float16": 65e12},
        GPU_KERNEL,
    ),
    Hardware(
        "RTX 4090",
        "NVIDIA Ada GPU Architecture whitepaper, table of the GeForce RTX 4090 (float32 accumulation)",
        1.008e12,
        {"float32": 82.6e12, "float16": 165.2e12, "bfloat16": 165.2e12},
        GPU_KERNEL,
    ),
)
"""Float32 is what the ordinary cores do: parity in float32 is checked with TF32 off."""

NAMES: Mapping[str, Hardware] = dict(zip(("h200", "a100", "l4", "t4", "rtx4090"), HARDWARE, strict=True))
"""What the devices are called on the command line; ``cpu`` is measured where it is asked for."""

ASSUMED = (
    f"estimate: {100 * REACHED_ARITHMETIC:g} % of the peak arithmetic, {100 * REACHED_BANDWIDTH:g} % of the bandwidth, "
    f"{1e6 * GPU_KERNEL:g} µs for each kernel on a GPU; least: the peaks, and nothing for kernels"
)


@dataclass(frozen=True)
class Form:
    """How an operator's arithmetic is spread over kernels.

    Attributes:
        name: the word.
        meaning: in one sentence.
        kernels: kernels CB adds (CB_S, spelled out, has one fewer).
        fused_model: whether the model around it is fused as well.
        elements: elements moved for one image, of an inserted operator.
    """

    name: str
    meaning: str
    kernels: int
    fused_model: bool
    elements: Callable[[Inserted], int]


def _line(item: Inserted) -> int:
    n, c = item.tokens, item.channels
    return 3 * n * c + 5 * c if item.op == "cb_s" else 5 * n * c + 4 * c


FORMS = (
    Form("line", "the formula operator by operator, every intermediate written to memory", 4, False, _line),
    Form(
        "kernel",
        "one reading for the mean, one for the result, one writing",
        2,
        True,
        lambda item: 3 * item.tokens * item.channels + 2 * item.channels,
    ),
    Form(
        "folded",
        "halves in the weights, the addition joins the residual addition; the mean is one more reading",
        1,
        True,
        lambda item: item.tokens * item.channels + 2 * item.channels,
    ),
    Form(
        "fused",
        "the product that makes x also sums it over the tokens; only the mean itself is written and read",
        0,
        True,
        lambda item: 2 * item.channels,
    ),
)
"""From the slowest to the fastest."""


@dataclass(frozen=True)
class Share:
    """One row: the operator's part of the latency.

    Attributes:
        hardware, dtype, form: what the row is for.
        batch: images per call.
        model_seconds: the model alone at the roofline.
        operator_seconds: the operators alone at the roofline.
        least: ``operator / (model + operator)`` at the roofline.
        estimate: the same at usual efficiency, kernels counted.
    """

    hardware: str
    dtype: str
    form: str
    batch: int
    model_seconds: float
    operator_seconds: float
    least: float
    estimate: float

    @property
    def negligible(self) -> bool:
        """Whether the estimate stays at or below :data:`NEGLIGIBLE`."""
        return self.estimate <= NEGLIGIBLE

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "hardware": self.hardware,
            "dtype": self.dtype,
            "form": self.form,
            "batch": self.batch,
            "model_seconds": self.model_seconds,
            "operator_seconds": self.operator_seconds,
            "least": self.least,
            "estimate": self.estimate,
            "negligible": self.negligible,
        }


def shares(
    counted: Audit,
    *,
    hardware: Iterable[Hardware] = HARDWARE,
    dtypes: Iterable[str] = ("float32", "float16"),
    forms: Iterable[Form] = FORMS,
) -> tuple[Share, ...]:
    """The table for an audit of a model A and the same model with operators B, at the audit's batch.

    A dtype that a device does not compute in has no row.

    Raises:
        ValueError: the audit has no B, or B has no inserted operator.
    """
    if counted.b is None or not counted.b.inserted:
        raise ValueError("a roofline of operators needs an audit of a model and of the same model with operators")
    chosen = tuple(forms)
    return tuple(
        _share(counted, device, dtype, form)
        for device in hardware
        for dtype in dtypes
        if dtype in device.peak
        for form in chosen
    )


def named(names: Iterable[str]) -> tuple[Hardware, ...]:
    """Devices by their names on the command line: :data:`NAMES`, and ``cpu``, which takes a second.

    Raises:
        UsageError: an unknown name (CB-AUDIT-01).
    """
    wanted = tuple(names)
    unknown = [name for name in wanted if name not in (*NAMES, "cpu")]
    if unknown or not wanted:
        raise UsageError(
            f"unknown hardware {unknown[0] if unknown else ''!r}",
            code="CB-AUDIT-01",
            why=f"known are {', '.join(NAMES)}, and cpu, which is measured",
            do="--hardware h200,l4,cpu",
        )
    return tuple(measured_cpu() if name == "cpu" else NAMES[name] for name in wanted)


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
        "forms": {form.name: form.meaning for form in FORMS},
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


def _share(counted: Audit, device: Hardware, dtype: str, form: Form) -> Share:
    assert counted.b is not None
    inserted, batch = counted.b.inserted, counted.batch
    scale = ITEM[dtype] / ITEM.get(counted.dtype, 4)
    model = model_seconds(counted.a, device, dtype, scale, fused=form.fused_model)
    likely = model_seconds(counted.a, device, dtype, scale, fused=form.fused_model, reached=True)
    likely += device.kernel * model_kernels(counted.a, fused=form.fused_model)
    moved = sum(form.elements(item) * item.calls for item in inserted) * batch * ITEM[dtype]
    extra = moved / device.bandwidth
    kernels = form.kernels * sum(item.calls for item in inserted)
    likely_extra = extra / REACHED_BANDWIDTH + kernels * device.kernel
    return Share(
        device.name,
        dtype,
        form.name,
        batch,
        model,
        extra,
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
        fused: products and reductions only; what is pointwise rides along with its neighbours.
        reached: at the efficiency kernels usually reach instead of at the peaks.
    """
    arithmetic = device.peak[dtype] * (REACHED_ARITHMETIC if reached else 1.0)
    bandwidth = device.bandwidth * (REACHED_BANDWIDTH if reached else 1.0)
    kept = PRODUCTS | REDUCTIONS
    return sum(
        max(part.operations / arithmetic, part.bytes * scale / bandwidth)
        for name, part in count.by_operator.items()
        if not fused or name in kept
    )


def model_kernels(count: Count, *, fused: bool) -> int:
    """Kernels the model takes: products and reductions where what is pointwise is fused, all operators elsewhere."""
    kept = PRODUCTS | REDUCTIONS
    return sum(calls for name, calls in count.calls.items() if not fused or name in kept)


def measured_cpu(*, threads: int | None = None, repeats: int = 5) -> Hardware:
    """This processor, measured by a copy of 128 MiB and a product of 1024 x 1024 matrices (about a second).

    Args:
        threads: threads to use; those PyTorch uses anyway when left out.
        repeats: how often each is timed; the fastest counts, as a peak is asked for.
    """
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        source, target = torch.ones(2**25), torch.empty(2**25)
        copy = _fastest(lambda: target.copy_(source), repeats)
        size = 1024
        left, result = torch.ones(size, size), torch.empty(size, size)
        product = _fastest(lambda: torch.mm(left, left, out=result), repeats)
        small, sink = torch.ones(16), torch.empty(16)
        call = _fastest(lambda: sink.copy_(small), 200)
    finally:
        used = torch.get_num_threads()
        torch.set_num_threads(before)
    return Hardware(
        f"this processor, {used} thread{'s' if used > 1 else ''}",
        "measured on the spot: copy of 128 MiB, product of 1024 x 1024 matrices, call of 16 elements",
        2 * source.numel() * source.element_size() / copy,
        {"float32": 2 * size**3 / product},
        call,
    )


def _fastest(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):  # the first one is warm-up
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times[1:])
