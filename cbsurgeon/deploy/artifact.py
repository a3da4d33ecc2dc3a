"""The result of an export: the file, its inputs and outputs, and what was folded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SCHEMA = "cbsurgeon.export/1"

Format = Literal["onnx", "engine", "pt2"]


@dataclass(frozen=True)
class Port:
    """One named input or output of an exported file, as read back from that file.

    Attributes:
        name: its name in the file.
        dtype: ``float32``, ``float16``, ``bfloat16``, ``int64`` ...
        dims: one entry per axis: an ``int`` if its size is fixed, a symbol such as ``"batch"`` if it is dynamic.
        usual: size at export of each symbol, for dynamic axes other than the batch.
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...]
    usual: Mapping[str, int] = field(default_factory=dict, compare=False)

    def shape(self, batch: int) -> tuple[int, ...]:
        """Return the shape with a number of samples, and with the size at export for every other dynamic axis."""
        return tuple(dim if isinstance(dim, int) else self.usual.get(dim, batch) for dim in self.dims)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"name": self.name, "dtype": self.dtype, "dims": list(self.dims)}

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join(str(dim) for dim in self.dims)}]"


@dataclass(frozen=True)
class FoldedSite:
    """What the fold pass did with one inserted operator.

    Attributes:
        site: ``<block path>:<position>``, or the node's name if the program does not record the site.
        op: name of the operator at this site.
        form: the weights that were multiplied by 0.5: ``last-projection`` (the down projection), ``layer-scale`` or
            ``first-projection`` (the up projection). ``last-projection, skip side`` adds the token mean to the residual
            stream, ``last-projection, bias side`` adds it to the bias. ``projection``: rows of the preceding projection
            became zero. Empty if the operator was not folded.
        reason: why the operator was not folded; empty if it was.
    """

    site: str
    op: str
    form: str = ""
    reason: str = ""

    def __bool__(self) -> bool:
        return bool(self.form)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"site": self.site, "op": self.op, "form": self.form, "reason": self.reason}


@dataclass(frozen=True)
class Export:
    """One exported file.

    Attributes:
        path: the file.
        format: ``onnx``, ``engine`` or ``pt2``.
        opset: ONNX operator set, ``None`` for other formats.
        dtype: floating type of the weights, ``float32``, ``float16`` or ``bfloat16``.
        bytes: size of the file, its external data included.
        sha256: digest of ``path``.
        inputs, outputs: names, types and dims, read back from the file.
        batch: the batch profile (minimum, optimum, maximum) of an engine; ``None`` if any batch runs.
        external_data: the file that holds an ONNX file's weights, if they are stored separately.
        manifest: the JSON file next to an engine, if there is one.
        kept: nodes of a 16-bit file that compute in float32, as ``module path (node)``.
        notes: facts that the user should know about the file.
        sites: what the fold pass did with each inserted operator; empty if nothing is inserted or folding is off.
        versions: package → version, for every package the export used.
        seconds: step → seconds (``capture``, ``fold``, ``export``, ``check``, ``build`` ...).
    """

    path: Path
    format: Format
    opset: int | None
    dtype: str
    bytes: int
    sha256: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    batch: tuple[int, int, int] | None = None
    external_data: Path | None = None
    manifest: Path | None = None
    sites: tuple[FoldedSite, ...] = ()
    kept: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def folded(self) -> tuple[FoldedSite, ...]:
        """The sites whose operator was folded into the model's own weights."""
        return tuple(site for site in self.sites if site)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``cbsurgeon.export/1``."""
        return {
            "schema": SCHEMA,
            "path": str(self.path),
            "format": self.format,
            "opset": self.opset,
            "dtype": self.dtype,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "inputs": [port.to_dict() for port in self.inputs],
            "outputs": [port.to_dict() for port in self.outputs],
            "batch": list(self.batch) if self.batch else None,
            "external_data": str(self.external_data) if self.external_data else None,
            "manifest": str(self.manifest) if self.manifest else None,
            "sites": [site.to_dict() for site in self.sites],
            "float32": list(self.kept),
            "notes": list(self.notes),
            "versions": dict(self.versions),
            "seconds": dict(self.seconds),
        }

    def __str__(self) -> str:
        kind = f"ONNX, opset {self.opset}" if self.format == "onnx" else self.format
        rows = [f"{self.path}: {kind}, {self.dtype}, {self.bytes / 1e6:.1f} MB, {sum(self.seconds.values()):.1f} s"]
        rows += [f"  in   {port}" for port in self.inputs]
        rows += [f"  out  {port}" for port in self.outputs]
        if self.batch:
            low, best, high = self.batch
            rows.append(f"  batch {low} only" if low == high else f"  batch {low} to {high}, tuned for {best}")
        if self.kept:
            rows.append(f"  {len(self.kept)} operators stay in float32")
        rows += [f"  note: {note}" for note in self.notes]
        if self.sites:
            rows.append(f"  folded {len(self.folded)} of {len(self.sites)} inserted operators")
            reasons = Counter(site.reason for site in self.sites if not site)
            rows += [f"    not folded: {count}, {reason}" for reason, count in reasons.items()]
        return "\n".join(rows)
