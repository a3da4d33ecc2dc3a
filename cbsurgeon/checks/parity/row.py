"""One output of two models compared on one set of inputs, and the difference that was allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tolerance:
    """The difference allowed between two outputs: ``|a - b| <= atol + rtol * |b|`` per element, ``rel_l2`` over all.

    Attributes:
        atol: absolute part; the largest of the channels, each of which has its own.
        rtol: relative part.
        rel_l2: limit on ``|a - b|_2 / |b|_2``; ``None`` when the user gave a tolerance of their own.
        source: ``given``, ``measured`` (from the rounding noise of this model on these inputs) or ``estimated``
            (from the dtype alone, because no float64 reference could be run).
        reason: in one sentence, where the numbers come from.
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
        backend: what ran it: ``eager``, ``program``, ``compile``, ``onnxruntime``, ``tensorrt``.
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
        inputs: ``generated``, ``large`` (magnitude), ``vocabulary`` (every token id) or the name of the user's file.
        batch: number of samples.
        output: name of the output.
        max_abs: largest elementwise difference; infinite when one value is finite and the other is not.
        rel_l2: L2 norm of the difference over that of the first output.
        cosine: cosine of the two flattened outputs.
        top1: share of samples with the same largest class, for outputs of shape ``[batch, classes]``, else ``None``.
        noise: rounding noise measured at this output, as a largest difference from float64; ``None`` if not measured.
        would_pass_at: smallest absolute tolerance, the same for all elements, under which this row passes.
        tolerance: what was allowed here.
        ok: whether it passed.
        reason: why it failed; empty when it passed.
        used: the largest share of its own allowance that an element uses; above 1 the row fails.
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
        """The share of the tolerance that was used."""
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
    """JSON has no infinity; a number that is not finite becomes ``null``."""
    return value if value is not None and value - value == 0.0 else None
