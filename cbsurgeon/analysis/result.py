"""The result of an analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cbsurgeon.analysis.layer import Layer
from cbsurgeon.analysis.scales import Scale
from cbsurgeon.errors import UsageError
from cbsurgeon.models.files import atomic, strict_json

SCHEMA = "cbsurgeon.analyze/1"


@dataclass(frozen=True)
class Shift:
    """The difference of one quantity of one layer between two models, B minus A.

    Attributes:
        layer: index of the attention.
        quantity: a key of :data:`cbsurgeon.analysis.layer.TITLES`.
        value: mean difference over the images.
        ci95: its 95 % confidence interval, paired over images; ``None`` for one image.
    """

    layer: int
    quantity: str
    value: float
    ci95: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "layer": self.layer,
            "quantity": self.quantity,
            "value": self.value,
            "ci95": list(self.ci95) if self.ci95 is not None else None,
        }


@dataclass(frozen=True)
class Picture:
    """The attention over one image, for one or both models (Figure 10).

    Attributes:
        name: the image.
        pixels: the image after preprocessing, as a ``data:`` URL.
        layer: path of the attention.
        query: the query whose weights are shown: ``class``, ``mean``, or a number.
        grid: height and width of a panel.
        panels: ``a`` or ``b`` → for each head the values of its panel, row by row, from 0 to 1; 0 below the threshold.
        mass: fraction of the attention above the threshold.
    """

    name: str
    pixels: str
    layer: str
    query: str
    grid: tuple[int, int]
    panels: Mapping[str, tuple[tuple[float, ...], ...]]
    mass: float

    def to_dict(self) -> dict[str, Any]:
        """JSON form; values are rounded to three digits."""
        return {
            "name": self.name,
            "pixels": self.pixels,
            "layer": self.layer,
            "query": self.query,
            "grid": list(self.grid),
            "mass": self.mass,
            "panels": {
                side: [[round(value, 3) for value in panel] for panel in panels] for side, panels in self.panels.items()
            },
        }


@dataclass(frozen=True)
class Side:
    """The statistics of one model.

    Attributes:
        name: the model.
        layers: one entry per attention with a map.
        scales: one entry per CB_S operator.
        reason: why there are no layers; empty if there are.
    """

    name: str
    layers: tuple[Layer, ...]
    scales: tuple[Scale, ...]
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "name": self.name,
            "layers": [layer.to_dict() for layer in self.layers],
            "scales": [scale.to_dict() for scale in self.scales],
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Analysis:
    """The statistics of the attention of one model on a dataset, or of two models with their differences.

    Attributes:
        a, b: the statistics of each model.
        data: the dataset.
        images: number of images.
        shifts: differences B minus A.
        findings: one sentence per significant difference.
        runs: number of sentences that were possible. The intervals of the findings are corrected for all of them, so
            that they hold together with 95 % confidence. The intervals of ``shifts`` are not corrected.
        pictures: attention over images.
        preprocessing: ``a`` or ``b`` → how images were preprocessed.
        remarks: facts that the user should know.
        seconds: duration.
        environment: processor, versions, date.
        first: whether this is the first of several processes; only the first one prints the result.
    """

    a: Side
    b: Side | None
    data: str
    images: int
    shifts: tuple[Shift, ...] = ()
    findings: tuple[str, ...] = ()
    runs: int = 0
    pictures: tuple[Picture, ...] = ()
    preprocessing: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    seconds: float = 0.0
    environment: Mapping[str, Any] = field(default_factory=dict)
    first: bool = True

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the first model."""
        return self.a.layers

    @property
    def scales(self) -> tuple[Scale, ...]:
        """The scales of the first model."""
        return self.a.scales

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``cbsurgeon.analyze/1``. ``layers`` and ``scales`` are those of the first model."""
        return {
            "schema": SCHEMA,
            "reference": self.a.name,
            "layers": [layer.to_dict() for layer in self.layers],
            "scales": [scale.to_dict() for scale in self.scales],
            "images": self.images,
            "reason": self.a.reason,
            "candidate": self.b.to_dict() if self.b is not None else None,
            "difference": [shift.to_dict() for shift in self.shifts],
            "findings": list(self.findings),
            "corrected_for": self.runs,
            "pictures": [picture.to_dict() for picture in self.pictures],
            "data": self.data,
            "preprocessing": {side: dict(one) for side, one in self.preprocessing.items()},
            "remarks": list(self.remarks),
            "seconds": round(self.seconds, 3),
            "environment": dict(self.environment),
        }

    def to_json(self) -> str:
        """Return the JSON form as text."""
        return strict_json.dumps(self.to_dict())

    def plot(self, path: str | Path, what: str = "curves", *, force: bool = False) -> Path:
        """Write a plot.

        Args:
            path: a ``.png`` or ``.svg`` file.
            what: ``curves`` (every quantity over depth) or ``pictures`` (attention over images).
            force: replace an existing file.

        Raises:
            UsageError: another suffix, or nothing to draw (CB-ANALYZE-07).
            OutputFileError: the file cannot be written.
            MissingPackage: matplotlib is not installed.
        """
        from cbsurgeon.analysis import drawing

        suffix = Path(path).suffix.lower()
        if suffix not in (".png", ".svg") or what not in ("curves", "pictures"):
            raise _no_plot(
                str(path), "a plot is a .png or .svg file of curves or pictures", "analysis.plot('curves.svg')"
            )
        document = self.to_dict()
        if not (drawing.available(document) if what == "curves" else self.pictures):
            raise _no_plot(str(path), f"the analysis has no {what}", "analysis.plot(path, 'curves')")
        made = drawing.figure_of_curves(document) if what == "curves" else drawing.figure_of_pictures(document)
        with atomic.output(path, force=force) as temporary:
            made.savefig(temporary, format=suffix[1:], dpi=150)
        return Path(path)


def _no_plot(where: str, why: str, do: str) -> UsageError:
    return UsageError("the plot cannot be written", code="CB-ANALYZE-07", where=where, why=why, do=do)
