"""Devices for the roofline: built-in ones from data sheets, the user's own from two numbers, this CPU by measuring."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from cbsurgeon.errors import UsageError, did_you_mean

ITEM = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes per element."""


@dataclass(frozen=True)
class Hardware:
    """Peak rates of one device.

    Attributes:
        name: the device.
        source: where the numbers are from.
        bandwidth: memory bandwidth in bytes per second.
        peak: dtype → dense matrix operations per second; a dtype that the device does not support is missing.
        kernel: shortest time of one kernel in seconds, without launch gaps (an assumption).
    """

    name: str
    source: str
    bandwidth: float
    peak: Mapping[str, float]
    kernel: float


GPU_KERNEL = 1.5e-6
CPU_KERNEL = 1e-6


def _gpu(
    name: str, source: str, bandwidth: float, float32: float, float16: float, *, bfloat16: bool = True
) -> Hardware:
    """Describe a GPU: tensor cores compute in 16 bits, ordinary cores in float32 (TF32 off)."""
    peak = {"float32": float32, "float16": float16, **({"bfloat16": float16} if bfloat16 else {})}
    return Hardware(name, source, bandwidth, peak, GPU_KERNEL)


_DENSE = "dense: half of the figures with sparsity"

NAMES: Mapping[str, Hardware] = {
    "h100": _gpu("H100 SXM", f"NVIDIA H100 Tensor Core GPU datasheet ({_DENSE})", 3.35e12, 67e12, 989.5e12),
    "h200": _gpu("H200 SXM", f"NVIDIA H200 Tensor Core GPU datasheet ({_DENSE})", 4.8e12, 67e12, 989.5e12),
    "a100": _gpu("A100 SXM 80 GB", "NVIDIA A100 Tensor Core GPU datasheet", 2.039e12, 19.5e12, 312e12),
    "l4": _gpu("L4", f"NVIDIA L4 Tensor Core GPU datasheet ({_DENSE})", 300e9, 30.3e12, 121e12),
    "t4": _gpu("T4", "NVIDIA T4 Tensor Core GPU datasheet (no bfloat16)", 320e9, 8.1e12, 65e12, bfloat16=False),
    "rtx4090": _gpu(
        "RTX 4090",
        "NVIDIA Ada GPU Architecture whitepaper, table of the GeForce RTX 4090 (float32 accumulation)",
        1.008e12,
        82.6e12,
        165.2e12,
    ),
    "jetson-orin": _gpu(
        "Jetson AGX Orin 64 GB",
        "NVIDIA Jetson AGX Orin Series Technical Brief (float16: a quarter of the GPU's 170 sparse INT8 TOPS)",
        204.8e9,
        5.3e12,
        42.5e12,
    ),
    "generic-cpu": Hardware(
        "generic CPU",
        "an assumption, not a data sheet: 8 cores at 3.5 GHz with two 256-bit FMA units, two channels of DDR5-5600",
        89.6e9,
        {"float32": 896e9},
        CPU_KERNEL,
    ),
}
"""Names of the devices on the command line. In addition, ``cpu`` is this processor, measured on request."""

HARDWARE = tuple(NAMES.values())


def named(names: Iterable[str]) -> tuple[Hardware, ...]:
    """Return the devices with these names: those in :data:`NAMES`, and ``cpu``, which is measured in about a second.

    Raises:
        UsageError: an unknown name (CB-AUDIT-01).
    """
    wanted = tuple(names)
    unknown = [name for name in wanted if name not in (*NAMES, "cpu")]
    if unknown or not wanted:
        raise UsageError(
            f"unknown hardware {unknown[0] if unknown else ''!r}",
            code="CB-AUDIT-01",
            where="--hardware",
            why=f"the known devices are {', '.join(NAMES)}, and cpu, which is measured",
            do=(did_you_mean(unknown[0], (*NAMES, "cpu"), "--hardware ") if unknown else "")
            or "describe your own device: --bandwidth 3.35TB/s --flops 989T",
        )
    return tuple(measured_cpu() if name == "cpu" else NAMES[name] for name in wanted)


_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_QUANTITY = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([kMGTP]?)\s*(B/s|B|FLOPS|FLOP/s|FLOP|OPS)?\s*$")


def described(bandwidth: str | float, flops: str | float) -> Hardware:
    """Return a device with this memory bandwidth and this arithmetic rate in every dtype.

    Args:
        bandwidth: bytes per second, or text such as ``3.35TB/s``.
        flops: operations per second, or text such as ``989T``; a multiply-accumulate is two.

    Raises:
        UsageError: a value is not a positive number with a decimal unit (CB-AUDIT-04).
    """
    rate, peak = _quantity(bandwidth, "--bandwidth", "3.35TB/s"), _quantity(flops, "--flops", "989T")
    name = f"{rate / 1e12:g} TB/s, {peak / 1e12:g} TFLOPS"
    return Hardware(name, "given by the user", rate, dict.fromkeys(ITEM, peak), GPU_KERNEL)


def _quantity(given: str | float, option: str, example: str) -> float:
    found = _QUANTITY.match(str(given))
    value = float(found[1]) * _UNITS[found[2]] if found else 0.0
    unit = (found[3] or "") if found else ""
    if value <= 0 or (unit and unit.startswith("B") != (option == "--bandwidth")):
        raise UsageError(
            f"{given!r} is not a value of {option}",
            code="CB-AUDIT-04",
            where=option,
            why="it must be a positive number of "
            + ("bytes per second" if option == "--bandwidth" else "operations per second")
            + ", with k, M, G, T or P as unit",
            do=f"{option} {example}",
        )
    return value


def measured_cpu(*, threads: int | None = None, repeats: int = 5) -> Hardware:
    """Measure this processor with a copy of 128 MiB and a product of 1024 x 1024 matrices (about a second).

    Args:
        threads: number of threads; by default those of PyTorch.
        repeats: how often each is timed; the fastest time counts, because a peak rate is wanted.
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
        "measured now: copy of 128 MiB, product of 1024 x 1024 matrices, call of 16 elements",
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
