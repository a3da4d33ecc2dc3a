"""Measuring one cell: parameters, arithmetic and bytes and, if requested, own time and file size."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cbsurgeon.checks.cost.auditing import count
from cbsurgeon.checks.cost.counts import Count
from cbsurgeon.checks.latency.factory import RuntimeFactory
from cbsurgeon.checks.latency.share.measuring import own_time
from cbsurgeon.deploy import RuntimeSpec, export_onnx
from cbsurgeon.errors import NothingMatched, SurgeryError, UsageError
from cbsurgeon.graph import Inspection, Program, inspect
from cbsurgeon.graph.capture import capture
from cbsurgeon.models import Model
from cbsurgeon.models.files import strict_json
from cbsurgeon.options import SweepOptions
from cbsurgeon.surgery import Recipe, plan
from cbsurgeon.surgery.program import rewrite
from cbsurgeon.sweeps.grid import BASELINE, Cell


@dataclass(frozen=True)
class Row:
    """The measurements of one cell.

    Attributes:
        name: name of the cell; ``baseline`` for the model without operators.
        cell: what was inserted; empty for the baseline.
        blocks: indices of the blocks with the operator.
        params, flops, bytes: cost of the edited model at batch 1, without fusion.
        refused: why this insertion is not possible, in one sentence; then nothing was counted.
        share, share_ci95: the operators' own time as a fraction of the run time, and its 95 % confidence interval.
        onnx_bytes: size of the exported file.
        note: why a figure is missing.
    """

    name: str
    cell: Mapping[str, Any] = field(default_factory=dict)
    blocks: tuple[int, ...] = ()
    params: int = 0
    flops: int = 0
    bytes: int = 0
    refused: str = ""
    share: float | None = None
    share_ci95: tuple[float, float] | None = None
    onnx_bytes: int | None = None
    note: str = ""

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], cell: Cell) -> Row:
        """Create the row of a cell from its JSON form.

        Raises:
            KeyError, TypeError: the document is not a row.
        """
        share = document["share"]
        if not _is_row(document):
            raise TypeError("a field has another type")
        return cls(
            cell.name,
            cell.to_dict(),
            tuple(document["blocks"]),
            document["params"],
            document["flops"],
            document["bytes"],
            document["refused"],
            share["value"] if share else None,
            tuple(share["ci95"]) if share and share["ci95"] else None,
            document["onnx_bytes"],
            document["note"],
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "name": self.name,
            **dict(self.cell),
            "blocks": list(self.blocks),
            "params": self.params,
            "flops": self.flops,
            "bytes": self.bytes,
            "refused": self.refused,
            "share": None
            if self.share is None
            else {"value": self.share, "ci95": list(self.share_ci95) if self.share_ci95 else None},
            "onnx_bytes": self.onnx_bytes,
            "note": self.note,
        }


@dataclass
class Measured:
    """A captured and inspected model on which the cells of a sweep are measured."""

    model: Model
    program: Program
    found: Inspection
    how: SweepOptions
    _folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="cbsurgeon-")
    )

    def baseline(self) -> Row:
        """Measure the model without operators."""
        return _counted(BASELINE, {}, (), count(self.model, program=self.program))

    def cell(self, cell: Cell) -> tuple[Row, Recipe | None]:
        """Measure one cell; return its row, and its recipe if the insertion is possible."""
        try:
            recipe = plan(self.found, cell.choice())
            edited = rewrite(self.program, recipe)
        except (NothingMatched, SurgeryError) as error:
            why = f"{error.what}{f': {error.why}' if error.why else ''} [{error.code}]"
            return Row(cell.name, cell.to_dict(), refused=why), None
        row = _counted(
            cell.name,
            cell.to_dict(),
            recipe.indices,
            count(replace(self.model, module=None, program=edited.exported), program=edited),
        )
        return (row if self.how.time is None else self._timed(row, edited)), recipe

    def read(self, cell: Cell, file: Path) -> tuple[Row, Recipe | None]:
        """Read a cell measured before from its file; measure it again if the file is damaged."""
        try:
            document = strict_json.load(file)
            recipe = Recipe.from_dict(document["recipe"]) if document["recipe"] else None
            row = Row.from_dict(document["row"], cell)
            if bool(row.refused) != (recipe is None) or (recipe and recipe != plan(self.found, cell.choice())):
                raise TypeError("the recipe is not that of the cell")
            return row, recipe
        except (OSError, KeyError, TypeError, UsageError, NothingMatched, SurgeryError, strict_json.NotStrictJSON):
            file.unlink(missing_ok=True)
            return self.cell(cell)

    def close(self) -> None:
        """Delete the temporary files."""
        self._folder.cleanup()

    def _timed(self, row: Row, edited: Program) -> Row:
        """Return the row with the operators' own time in ONNX Runtime and the size of the ONNX file added."""
        assert self.how.time is not None
        folder = Path(self._folder.name)
        plain, file = folder / "baseline.onnx", folder / "cell.onnx"
        if not plain.exists():
            export_onnx(self.model, plain, opset=self.how.opset, program=self.program)
        made = export_onnx(self.model, file, opset=self.how.opset, program=edited, force=True)
        integers = tuple((name, one) for name, one in self.program.example.items() if not one.is_floating_point())
        sides = [RuntimeFactory(RuntimeSpec(path, "onnxruntime"), 1, integers) for path in (plain, file)]
        own = own_time(*sides, seconds=self.how.time)
        if isinstance(own, str):
            return replace(row, onnx_bytes=made.bytes, note=f"own time was not measured: {own}")
        return replace(row, onnx_bytes=made.bytes, share=own.share.value, share_ci95=own.share.ci95)


def measure(model: Model, how: SweepOptions) -> Measured:
    """Capture and inspect a model for a sweep.

    Raises:
        CaptureError: the model cannot be captured whole.
    """
    program = capture(model, check=False)
    return Measured(model, program, inspect(model), how)


def _is_row(document: Mapping[str, Any]) -> bool:
    """Return whether every field of a row's JSON form has the type that :meth:`Row.to_dict` writes."""
    share, size = document["share"], document["onnx_bytes"]
    ends = share["ci95"] if share else None
    numbers = [*document["blocks"], *(document[name] for name in ("params", "flops", "bytes"))]
    return (
        isinstance(document["blocks"], list)
        and all(type(number) is int and number >= 0 for number in numbers + ([] if size is None else [size]))
        and all(isinstance(document[name], str) for name in ("refused", "note"))
        and (not share or type(share["value"]) in (int, float))
        and (not ends or (len(ends) == 2 and all(type(end) in (int, float) for end in ends)))
    )


def _counted(name: str, cell: Mapping[str, Any], blocks: tuple[int, ...], counted: Count) -> Row:
    total = counted.total
    return Row(name, cell, blocks, total.params, total.flops, total.bytes)
