"""The result of an analysis."""

from __future__ import annotations

import html
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cbsurgeon.analysis.scales import Scale
from cbsurgeon.errors import MissingPackage, UsageError
from cbsurgeon.graph.heads import Attention
from cbsurgeon.models.files import atomic

SCHEMA = "cbsurgeon.analyze/1"
TITLES = {
    "entropy": "entropy",
    "class_entropy": "entropy of the class token's row",
    "distance": "relative distance, mean over pairs",
    "weighted_distance": "relative distance, weighted by attention",
    "nuclear_norm": "nuclear norm of the softmax Jacobian",
}
"""Quantity → its name in sentences."""

UNITS = {"entropy": "nats", "class_entropy": "nats"}


@dataclass(frozen=True)
class Entropy:
    """Entropies of the rows of one attention, in nats (Figure 4).

    Attributes:
        mean: over images, heads and queries.
        p15, p85: 15th and 85th percentile over all rows. The paper's text names the 15th, but its description "close to
            the maximal" fits the 85th.
        bound: the largest possible entropy, ``ln keys``.
        by_head: mean per head.
    """

    mean: float
    p15: float
    p85: float
    bound: float
    by_head: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "mean": _plain(self.mean),
            "p15": _plain(self.p15),
            "p85": _plain(self.p85),
            "bound": self.bound,
            "by_head": [_plain(one) for one in self.by_head],
        }


@dataclass(frozen=True)
class Layer:
    """The statistics of one attention over all images. A quantity that is not defined for it is ``None``.

    Attributes:
        attention: its description from ``inspect``.
        entropy: entropy of its rows.
        class_entropy: mean entropy of the class token's row, in nats (Figure 7a).
        distance: weight times distance, averaged over all pairs of different spatial tokens (Figure 7b taken
            literally); of the order of 1 / N.
        weighted_distance: mean distance to the other spatial tokens, weighted by attention (Figure 7b as usually read).
        nuclear_norm: nuclear norm of the Jacobian of softmax, ``scale * (1 - sum of squared weights)`` (Figure 5).
        scale: factor between the product of queries and keys and the logits.
        scale_read: whether the factor was read from the graph; otherwise ``1 / sqrt(channels of a head)`` is assumed.
        images: quantity → its value per image, in the order of the images.
    """

    attention: Attention
    entropy: Entropy
    class_entropy: float | None
    distance: float | None
    weighted_distance: float | None
    nuclear_norm: float | None
    scale: float
    scale_read: bool
    images: Mapping[str, tuple[float, ...]] = field(default_factory=dict, repr=False)

    def spread(self, quantity: str) -> tuple[float, float]:
        """Return the 15th and the 85th percentile of a quantity over the images."""
        values = sorted(value for value in self.images[quantity] if math.isfinite(value))
        if not values:
            return math.nan, math.nan
        ends = (0.15 * (len(values) - 1), 0.85 * (len(values) - 1))
        low, high = (
            values[int(end)] + (end - int(end)) * (values[min(int(end) + 1, len(values) - 1)] - values[int(end)])
            for end in ends
        )
        return low, high

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        one = self.attention
        return {
            "index": one.index,
            "stack": one.stack,
            "path": one.path,
            "kind": one.kind,
            "heads": one.heads,
            "queries": one.queries,
            "keys": one.keys,
            "entropy": self.entropy.to_dict(),
            "class_entropy": self.class_entropy,
            "distance": self.distance,
            "weighted_distance": self.weighted_distance,
            "nuclear_norm": self.nuclear_norm,
            "scale": self.scale,
            "scale_read": self.scale_read,
            "mixed": one.mixed,
            "spread": {name: [_plain(end) for end in self.spread(name)] for name in self.images},
        }


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Shift:
    """The difference of one quantity of one layer between two models, B minus A.

    Attributes:
        layer: index of the attention.
        quantity: a key of :data:`TITLES`.
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
        }

    def to_json(self) -> str:
        """Return the JSON form as text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

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

    def _repr_html_(self) -> str:
        """Return HTML with the sentences and, if matplotlib is installed, the curves, for notebooks."""
        from cbsurgeon.analysis import drawing

        said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.findings)
        head = f"<p>{html.escape(self.a.name)}: {len(self.layers)} attentions, {self.images} images</p><ul>{said}</ul>"
        try:
            made = drawing.figure_of_curves(self.to_dict())
        except MissingPackage:
            return head
        buffer = io.StringIO()
        made.savefig(buffer, format="svg")
        return head + buffer.getvalue()[buffer.getvalue().index("<svg") :]


def _no_plot(where: str, why: str, do: str) -> UsageError:
    return UsageError("the plot cannot be written", code="CB-ANALYZE-07", where=where, why=why, do=do)
