"""The TensorRT packages: ``tensorrt`` (10, 11) and ``tensorrt_rtx``, which share one Python interface."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from cbsurgeon.errors import MissingPackage, UsageError, missing

PACKAGES = ("tensorrt", "tensorrt_rtx")

# Builders can log thousands of messages; the last ones explain a failure.
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
        """Whether it is TensorRT-RTX, which builds without a GPU, has no timing cache and accepts target GPUs."""
        return self.name == "tensorrt_rtx"

    @property
    def version(self) -> str:
        """The package's version."""
        return str(self.module.__version__)

    @property
    def targets(self) -> tuple[str, ...]:
        """Compute capabilities to build for (``SM86`` ...); empty if it always builds for the installed GPU."""
        capability = getattr(self.module, "ComputeCapability", None)
        if capability is None or not self.rtx:
            return ()
        return tuple(sorted((name for name in dir(capability) if name.startswith("SM")), key=lambda sm: int(sm[2:])))


def find(name: str | None = None) -> TensorRT:
    """Import the TensorRT package to use: the one named; else ``tensorrt`` with a GPU, ``tensorrt_rtx`` without one.

    Raises:
        UsageError: an unknown name (CB-ENGINE-01).
        MissingPackage: it is not installed, or not available for this system (CB-MISSING-03).
    """
    if name is not None:
        if name not in PACKAGES:
            raise UsageError(
                f"unknown TensorRT package {name!r}",
                code="CB-ENGINE-01",
                where=f"package={name!r}",
                why=f"the packages are {' and '.join(PACKAGES)}",
                do="leave it out to use the installed one",
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
            where="this machine",
            why="NVIDIA publishes its packages for Linux and Windows",
            do="export to ONNX here; on a machine with Linux or Windows: cbsurgeon export model.onnx -o model.engine",
        )
    raise missing("tensorrt_rtx (or tensorrt)", "tensorrt-rtx", "building and running engines")


def _import(name: str) -> TensorRT | None:
    try:
        return TensorRT(name, importlib.import_module(name))
    except ImportError:
        return None


def logger(trt: TensorRT) -> Any:
    """Return a logger that collects ``.errors`` and ``.warnings`` and prints nothing."""

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
