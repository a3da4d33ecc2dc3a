"""Drawing curves over depth (Figures 4, 5, 7 and 8) and attention over images (Figure 10) with matplotlib.

Everything is drawn from the JSON form of an analysis, so that a saved file can be drawn again.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cbsurgeon.errors import missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Colors:
    """Colours of a plot, in matplotlib's notation."""

    ink: str = "#16191d"
    muted: str = "#5d6673"
    grid: str = "#d9dee5"
    first: str = "#6b7a90"
    second: str = "#0b6bcb"


@dataclass(frozen=True)
class Curve:
    """A plot of one quantity over depth.

    Attributes:
        name: the quantity; ``ratio`` and ``mean`` refer to the scales of CB_S.
        title: heading.
        label: label of the vertical axis.
    """

    name: str
    title: str
    label: str


CURVES = (
    Curve("entropy", "Entropy of the attention (Figure 4)", "nats"),
    Curve("class_entropy", "Entropy of the class token's row (Figure 7a)", "nats"),
    Curve("distance", "Relative distance, mean over pairs (Figure 7b)", "weight x distance"),
    Curve("weighted_distance", "Relative distance, weighted by attention", "distance"),
    Curve("nuclear_norm", "Softmax gradient, nuclear norm (Figure 5)", "nuclear norm"),
    Curve("ratio", "Scales of CB_S, 0.1 over 0.9 quantile (Figure 8)", "ratio"),
    Curve("mean", "Scales of CB_S, mean (Figure 8)", "mean"),
)


def available(document: Document) -> list[Curve]:
    """Return the curves that an analysis has values for."""
    return [curve for curve in CURVES if any(_points(side, curve.name)[1] for _, side in sides(document))]


def sides(document: Document) -> list[tuple[str, Document]]:
    """Return the models of a document as pairs of ``A`` or ``B`` and its part of the document."""
    b = document.get("candidate")
    return [("A", document), *([("B", b)] if b else [])]


def draw(axes: Axes, document: Document, curve: Curve, colors: Colors) -> None:
    """Draw one quantity over depth: a line per model, a band from the 15th to the 85th percentile, and the bound.

    The percentiles of the entropy are over all rows of the maps, those of other quantities over images.
    """
    from matplotlib.ticker import MaxNLocator

    drawn = sides(document)
    used = (colors.first, colors.second) if len(drawn) > 1 else (colors.second,)
    for (letter, side), color in zip(drawn, used, strict=True):
        layers, values = _points(side, curve.name)
        if not values:
            continue
        axes.plot(
            layers,
            values,
            "o-",
            color=color,
            markersize=3.5,
            linewidth=1.6,
            label=f"{letter}: {side.get('name', side.get('reference'))}" if len(drawn) > 1 else letter,
        )
        low, high = _band(side, curve.name)
        if low:
            axes.fill_between(layers, low, high, color=color, alpha=0.16, linewidth=0)
    if curve.name in ("entropy", "class_entropy"):
        _bound(axes, document, colors)
    axes.set_xlabel("layer" if curve.name not in ("ratio", "mean") else "CB_S operator, in order of depth")
    axes.set_ylabel(curve.label)
    axes.margins(x=0.03)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.ticklabel_format(axis="y", useOffset=False)
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.2))


def _bound(axes: Axes, document: Document, colors: Colors) -> None:
    """Draw the largest possible entropy, with a step where the number of keys changes."""
    layers = document["layers"] or sides(document)[-1][1]["layers"]
    indices = [layer["index"] for layer in layers]
    bounds = [layer["entropy"]["bound"] for layer in layers]
    axes.plot(indices, bounds, "--", color=colors.muted, linewidth=1.1, drawstyle="steps-mid")
    above: Any = {"xytext": (0, 3), "textcoords": "offset points", "ha": "right", "va": "bottom"}
    axes.annotate("bound ln N", (indices[-1], bounds[-1]), color=colors.muted, **above)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.15 * (high - low))  # space for the label above a curve that touches the bound


def _points(side: Document, name: str) -> tuple[list[int], list[float]]:
    if name in ("ratio", "mean"):
        pairs = [(index, scale[name]) for index, scale in enumerate(side["scales"])]
    else:
        pairs = [(layer["index"], _value(layer, name)) for layer in side["layers"]]
    known = [(index, value) for index, value in pairs if value is not None]
    return [index for index, _ in known], [value for _, value in known]


def _value(layer: Document, name: str) -> float | None:
    return layer["entropy"]["mean"] if name == "entropy" else layer[name]  # type: ignore[no-any-return]


def _band(side: Document, name: str) -> tuple[list[float], list[float]]:
    if name in ("ratio", "mean"):
        return [], []
    ends = [
        (layer["entropy"]["p15"], layer["entropy"]["p85"]) if name == "entropy" else layer["spread"][name]
        for layer in side["layers"]
        if _value(layer, name) is not None
    ]
    if any(end is None for pair in ends for end in pair):
        return [], []
    return [low for low, _ in ends], [high for _, high in ends]


def figure_of_curves(document: Document, colors: Colors | None = None) -> Figure:
    """Return a figure with all curves of an analysis.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    figures = _matplotlib()
    colors = colors or Colors()
    curves = available(document)
    columns = min(2, max(1, len(curves)))
    rows = max(1, math.ceil(len(curves) / columns))
    figure: Figure = figures.Figure(figsize=(5.2 * columns, 3.4 * rows), layout="constrained")
    for number, curve in enumerate(curves, 1):
        axes = figure.add_subplot(rows, columns, number)
        draw(axes, document, curve, colors)
        axes.set_title(curve.title, fontsize=10, color=colors.ink)
        axes.grid(color=colors.grid, linewidth=0.6)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_color(colors.grid)
    return figure


def figure_of_pictures(document: Document) -> Figure:
    """Return a figure with all pictures of an analysis: one row per image and model, one panel per head.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    figures = _matplotlib()
    pictures = document["pictures"]
    lines = [(picture, side) for picture in pictures for side in picture["panels"]]
    columns = 1 + max((len(picture["panels"][side]) for picture, side in lines), default=0)
    figure: Figure = figures.Figure(figsize=(1.5 * columns, 1.65 * max(1, len(lines))), layout="constrained")
    for number, (picture, side) in enumerate(lines):
        image = _pixels(picture["pixels"])
        panels: Sequence[Sequence[float]] = picture["panels"][side]
        for column in range(len(panels) + 1):
            axes = figure.add_subplot(len(lines), columns, number * columns + column + 1)
            axes.set_axis_off()
            if image is not None:
                axes.imshow(image, extent=(0, 1, 0, 1))
            if column == 0:
                axes.set_title(f"{side.upper()}  {picture['name'][-24:]}", fontsize=7)
                continue
            height, width = picture["grid"]
            values = [panels[column - 1][row * width : (row + 1) * width] for row in range(height)]
            axes.imshow(values, extent=(0, 1, 0, 1), cmap="inferno", alpha=0.65, vmin=0, vmax=1)
            axes.set_title(f"head {column - 1}", fontsize=7)
    return figure


def _pixels(address: str) -> Any:
    """Return the pixels of the image in a ``data:`` URL; ``None`` for an empty one."""
    if not address:
        return None
    import base64

    from matplotlib.image import imread

    return imread(io.BytesIO(base64.b64decode(address.partition(",")[2])), format="jpeg")


def _matplotlib() -> Any:
    try:
        from matplotlib import figure
    except ImportError as error:
        raise missing("matplotlib", "report", "drawing plots") from error
    return figure
