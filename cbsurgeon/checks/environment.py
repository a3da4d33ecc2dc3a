"""Describing the machine of a measurement: processor, threads, versions, load, clocks; no host name, no paths."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

from cbsurgeon.version import __version__

PACKAGES = ("torch", "numpy", "timm", "torchvision", "transformers", "onnx", "onnxscript", "onnxruntime", "tensorrt")


def environment() -> dict[str, Any]:
    """Return a description of this machine and process, as JSON values."""
    return {
        "cbsurgeon": __version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "affinity": affinity(),
        "threads": {"torch": torch.get_num_threads(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")},
        "clock_mhz": clock_mhz(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load": list(load()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": packages(),
    }


def packages() -> dict[str, str]:
    """Return the versions of installed packages that can affect a measurement."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Return the processor's name."""
    match = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def clock_mhz() -> float | None:
    """Return the current mean clock of the cores; ``None`` if the system does not report it."""
    clocks = [float(value) for value in re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", _read("/proc/cpuinfo") or "", re.M)]
    return round(sum(clocks) / len(clocks), 1) if clocks else None


def affinity() -> list[int] | None:
    """Return the cores this process may run on; ``None`` if the system does not report them."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def load() -> tuple[float, float, float]:
    """Return the load averages over 1, 5 and 15 minutes; zeros if the system has none."""
    return os.getloadavg() if hasattr(os, "getloadavg") else (0.0, 0.0, 0.0)


def resident_bytes(*, peak: bool = False) -> int | None:
    """Return this process's memory in bytes, now or the peak since :func:`reset_peak`; ``None`` if not on Linux."""
    match = re.search(rf"^{'VmHWM' if peak else 'VmRSS'}:\s*(\d+) kB", _read("/proc/self/status") or "", re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def reset_peak() -> bool:
    """Reset the peak of :func:`resident_bytes` (Linux only); return whether that succeeded."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
