"""One output of two models compared on one set of inputs, and its tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tolerance:
    """The difference allowed between two outputs: ``|a - b| <= atol + rtol * |b|`` per element, ``rel_l2`` over all.

    Attributes:
        atol: absolute tolerance; each channel has its own, this is the largest.
        rtol: relative tolerance.
        rel_l2: limit on ``|a - b|_2 / |b|_2``; ``None`` if the user gave a tolerance.
        source: ``given``, ``measured`` (from the rounding noise of this model on these inputs) or ``estimated``
            (from the dtype alone, because there is no float64 reference).
        reason: one sentence about where the numbers come from.
    """

    atol: float
    rtol: float
    rel_l2: float | None
    source: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "atol": self.atol,
            "rtol": self.rtol,
            "rel_l2": self.rel_l2,
            "source": self.source,
            "reason": self.reason,
        }

    def __str__(self) -> str:
        gate = "" if self.rel_l2 is None else f" / rel L2 {self.rel_l2:.1e}"
        return f"atol {self.atol:.1e} / rtol {self.rtol:.1e}{gate} ({self.source})"


@dataclass(frozen=True)
class Side:
    """One of the two models compared.

    Attributes:
        name: the file or the model's reference.
        backend: the back end: ``eager``, ``program``, ``compile``, ``onnxruntime``, ``tensorrt``.
        device: ``cpu`` or ``cuda``.
        dtype: floating type it computes in.
    """

    name: str
    backend: str
    device: str
    dtype: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"name": self.name, "backend": self.backend, "device": self.device, "dtype": self.dtype}

    def __str__(self) -> str:
        return f"{self.name} ({self.backend}, {self.device}, {self.dtype})"


@dataclass(frozen=True)
class Row:
    """One output compared on one set of inputs.

    Attributes:
        inputs: ``generated``, ``large`` or ``small`` (magnitude), ``vocabulary`` (every token id), ``padded`` (some
            tokens are masked), ``images``, or the name of the user's file.
        batch: number of samples.
        output: name of the output.
        max_abs: largest elementwise difference; infinite when one value is finite and the other is not.
        rel_l2: L2 norm of the difference over that of the first output.
        cosine: cosine of the two flattened outputs.
        top1: fraction of samples with the same top class, for outputs of shape ``[batch, classes]``, else ``None``.
        noise: rounding noise of this output, as the largest difference from float64; ``None`` if not measured.
        would_pass_at: smallest absolute tolerance, the same for all elements, with which this row passes.
        tolerance: the tolerance of this row.
        ok: whether it passed.
        reason: why it failed; empty if it passed.
        used: the largest ratio of an element's difference to its tolerance; above 1 the row fails.
    """

    inputs: str
    batch: int
    output: str
    max_abs: float
    rel_l2: float
    cosine: float
    top1: float | None
    noise: float | None
    would_pass_at: float
    tolerance: Tolerance
    ok: bool
    reason: str = ""
    used: float = 0.0

    @property
    def severity(self) -> float:
        """The fraction of the tolerance that was used; above 1 the row fails."""
        limit = self.tolerance.rel_l2
        return max(self.used, self.rel_l2 / limit if limit else 0.0)

    def to_dict(self) -> dict[str, Any]:
        """JSON form; non-finite numbers as ``null``."""
        return {
            "inputs": self.inputs,
            "batch": self.batch,
            "output": self.output,
            "max_abs": finite(self.max_abs),
            "rel_l2": finite(self.rel_l2),
            "cosine": finite(self.cosine),
            "top1": self.top1,
            "noise": self.noise,
            "would_pass_at": finite(self.would_pass_at),
            "tolerance": self.tolerance.to_dict(),
            "ok": self.ok,
            "reason": self.reason,
            "used": finite(self.used),
        }


def finite(value: float | None) -> float | None:
    """Return ``None`` for a number that is not finite, because JSON has no infinity."""
    return value if value is not None and value - value == 0.0 else None
