"""The TensorRT packages: ``tensorrt`` (10, 11) and ``tensorrt_rtx``, which share one Python interface."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from cbsurgeon.errors import MissingPackage, UsageError, missing

PACKAGES = ("tensorrt", "tensorrt_rtx")

# Graphs of several gigabytes make builders say thousands of things; the last ones explain a failure.
_KEPT_MESSAGES = 40


@dataclass(frozen=True)
class TensorRT:
    """An importable TensorRT.

    Attributes:
        name: ``tensorrt`` or ``tensorrt_rtx``.
        module: the package.
    """

    name: str
    module: ModuleType

    @property
    def rtx(self) -> bool:
        """TensorRT-RTX: builds without a GPU, has no timing cache, takes compute-capability targets."""
        return self.name == "tensorrt_rtx"

    @property
    def version(self) -> str:
        """The package's version."""
        return str(self.module.__version__)

    @property
    def targets(self) -> tuple[str, ...]:
        """Compute capabilities a build can name (``SM86`` ...); empty where it builds for the GPU it runs on."""
        capability = getattr(self.module, "ComputeCapability", None)
        if capability is None or not self.rtx:
            return ()
        return tuple(sorted((name for name in dir(capability) if name.startswith("SM")), key=lambda sm: int(sm[2:])))


def find(name: str | None = None) -> TensorRT:
    """The TensorRT to use: the one named; else ``tensorrt`` where a GPU is, and ``tensorrt_rtx`` where none is.

    Raises:
        UsageError: an unknown name (CB-ENGINE-01).
        MissingPackage: none is installed, or not the one named; there is none for this system (CB-MISSING-03).
    """
    if name is not None:
        if name not in PACKAGES:
            raise UsageError(
                f"unknown TensorRT package {name!r}",
                code="CB-ENGINE-01",
                why=f"the packages are {' and '.join(PACKAGES)}",
                do="leave it out to take what is installed",
            )
        found = _import(name)
        if found is None:
            raise missing(name, name.replace("_", "-"), "building and running engines")
        return found
    order = PACKAGES if torch.cuda.is_available() else PACKAGES[::-1]
    for candidate in order:
        found = _import(candidate)
        if found is not None:
            return found
    if sys.platform == "darwin":
        raise MissingPackage(
            "TensorRT is not available on macOS",
            code="CB-MISSING-03",
            why="NVIDIA publishes its packages for Linux and Windows",
            do="export to ONNX here; on a machine with Linux or Windows: cbsurgeon export model.onnx -o model.engine",
        )
    raise missing("tensorrt_rtx (or tensorrt)", "tensorrt-rtx", "building and running engines")


def installed() -> bool:
    """Whether a TensorRT builder is installed, without importing it."""
    return any(importlib.util.find_spec(name) is not None for name in PACKAGES)


def _import(name: str) -> TensorRT | None:
    try:
        return TensorRT(name, importlib.import_module(name))
    except ImportError:
        return None


def logger(trt: TensorRT) -> Any:
    """A logger that keeps errors and warnings in ``.errors`` and ``.warnings`` and prints nothing."""

    class Collected(trt.module.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.module.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            grade = trt.module.ILogger.Severity
            kept = {grade.ERROR: self.errors, grade.INTERNAL_ERROR: self.errors, grade.WARNING: self.warnings}
            if severity in kept:
                kept[severity].append(message)
                del kept[severity][:-_KEPT_MESSAGES]

    return Collected()
