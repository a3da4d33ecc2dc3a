"""What to run and how, as a value that another process can be sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cbsurgeon.graph import Program
from cbsurgeon.models.model import Model
from cbsurgeon.vocabulary import ENGINE_SUFFIXES

Target = Model | Program | str | Path


@dataclass(frozen=True)
class RuntimeSpec:
    """What :func:`cbsurgeon.deploy.open_runtime` opens.

    Attributes:
        target: a model, a program, or a file (``.onnx``, ``.engine``, ``.pt2``).
        backend: one of :data:`cbsurgeon.vocabulary.BACKENDS`; ``None`` takes what runs the target as it is.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        threads: threads within one operator; ``None`` leaves it alone.
        optimize: let ONNX Runtime rewrite the graph.
        cuda_graph: record and replay what :meth:`Runtime.prepare` gives, on a CUDA device.
        trust: the user vouches for files that can run code.
        fold: fold operators when a model has to be exported first.
    """

    target: Target
    backend: str | None = None
    device: str = "cpu"
    threads: int | None = None
    optimize: bool = True
    cuda_graph: bool = False
    trust: bool = False
    fold: bool = True

    @property
    def chosen(self) -> str:
        """The back end, with the default filled in."""
        return self.backend or _running(self.target)


def _running(target: Target) -> str:
    if isinstance(target, Program):
        return "program"
    if isinstance(target, Model):
        return "eager" if target.module is not None else "program"
    suffix = Path(target).suffix.lower()
    if suffix == ".onnx":
        return "onnxruntime"
    return "tensorrt" if suffix in ENGINE_SUFFIXES else "program"
