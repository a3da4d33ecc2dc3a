"""A specification of a runtime, which can be sent to another process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cbsurgeon.graph import Program
from cbsurgeon.models.model import Model
from cbsurgeon.vocabulary import ENGINE_SUFFIXES

Target = Model | Program | str | Path


@dataclass(frozen=True)
class RuntimeSpec:
    """How to open a runtime; see :func:`cbsurgeon.deploy.open_spec`.

    Attributes:
        target: a model, a program, or a file (``.onnx``, ``.engine``, ``.pt2``).
        backend: one of :data:`cbsurgeon.vocabulary.BACKENDS`; ``None`` chooses
            the one that runs the target without conversion.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        threads: threads within one operator; ``None`` keeps the back end's default.
        optimize: let ONNX Runtime rewrite the graph.
        cuda_graph: on a CUDA device, record the work of :meth:`Runtime.prepare` as a CUDA graph and replay it.
        trust: open files that can run code.
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
