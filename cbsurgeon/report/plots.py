"""Drawing plots as SVG that uses the page's fonts and its light or dark colours."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cbsurgeon.errors import missing
from cbsurgeon.report.document import Document
from cbsurgeon.report.figures import COSTS, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Plots are drawn in these colours, which are then replaced by the page's CSS variables (light or dark).
INK, MUTED, GRID, FIRST, SECOND, BAD = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--rule", FIRST: "--a", SECOND: "--b", BAD: "--bad"}

WIDTH = 4.8
"""Width in inches. At 72 points per inch, the text is readable if the plot is scaled to a phone's 360 points."""

STYLE: dict[Any, Any] = {
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "ytick.left": False,
}


def require() -> None:
    """Check before long work that the packages for plots are installed.

    Raises:
        MissingPackage: matplotlib or Jinja2 is not installed.
    """
    for package, name in (("matplotlib", "matplotlib"), ("jinja2", "Jinja2")):
        try:
            __import__(package)
        except ImportError as error:
            raise missing(name, "report", "the HTML report") from error


def latency(document: Document) -> str:
    """Draw the intervals of B / A and A / A with the claim and all pairs."""
    with drawn(2.5, document["b"]) as (figure, axes):
        rows = ((1, SECOND, document["ratio"], document["ci95"]), (0, FIRST, *_control(document)))
        _fit(axes, document, [*_slowdowns(document, "b"), *_slowdowns(document, "control")])
        low, high = axes.get_xlim()
        for (y, color, ratio, bounds), pairs in zip(
            rows, (_slowdowns(document, "b"), _slowdowns(document, "control")), strict=True
        ):
            pairs = [pair for pair in pairs if low <= pair <= high]  # others would only make the picture wider
            axes.scatter(pairs, _spread(len(pairs), y - 0.28), s=7, color=color, alpha=0.3, linewidths=0)
            axes.plot([100 * (bound - 1) for bound in bounds], [y, y], color=color, linewidth=3, solid_capstyle="butt")
            axes.plot([100 * (ratio - 1)], [y], "o", color=color, markersize=7)
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.axvline(100 * document["claim"], color=BAD, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.annotate(
            f"claim {100 * document['claim']:g} %", (100 * document["claim"], 1.47), color=BAD, ha="center", va="bottom"
        )
        axes.set_yticks([1, 0], ["B / A", "A / A"])
        axes.set_ylim(-0.6, 1.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("slow-down in %: 95 % interval, and every pair")
        return svg(figure, "latency")


def sites(document: Document) -> str:
    """Draw the own time of each inserted operator in one run."""
    rows = document["own_time"]["sites"]
    with drawn(0.6 + 0.3 * len(rows), "sites") as (figure, axes):
        places = list(range(len(rows), 0, -1))
        times = [row["microseconds"] for row in rows]
        axes.barh(places, times, height=0.6, color=SECOND)
        for y, time in zip(places, times, strict=True):
            axes.annotate(f"{time:.1f}", (time, y), (4, 0), textcoords="offset points", va="center")
        axes.set_yticks(places, [_shortened(row["site"]) for row in rows])
        axes.set_xlim(0, (max(times) or 1.0) * 1.2)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("µs in one run")
        return svg(figure, "sites")


def costs(document: Document) -> str:
    """Draw the relative difference of B to A in per cent, one bar per quantity."""
    names = [name for name in COSTS if name in document and document[name]["relative"] is not None]
    shares = [100 * document[name]["relative"] for name in names]
    with drawn(0.5 + 0.42 * len(names), "costs") as (figure, axes):
        places = range(len(names), 0, -1)
        axes.barh(places, shares, height=0.5, color=SECOND)
        for y, share in zip(places, shares, strict=True):
            axes.annotate(percent(share / 100), (max(share, 0), y), (4, 0), textcoords="offset points", va="center")
        axes.set_yticks(list(places), [COSTS[name] for name in names])
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("B compared with A, in %")
        low, high = min(0.0, *shares), max(0.0, *shares)
        axes.set_xlim(low, (high or 1.0) * 1.35)
        return svg(figure, "costs")


def operators(document: Document, quantity: str = "bytes", shown: int = 8) -> str:
    """Draw a quantity by operator for A and B; the inserted operators are always shown."""
    rows = sorted(document["by_operator"], key=lambda row: -(row[quantity]["b"] or row[quantity]["a"]))
    placed = {item["op"] for side in ("a", "b") for item in (document["inserted"].get(side) or ())}
    kept = rows[:shown] + [row for row in rows[shown:] if row["operator"] in placed]
    with drawn(0.6 + 0.36 * len(kept), "operators") as (figure, axes):
        places = list(range(len(kept), 0, -1))
        unit = 1e6
        for side, color, shift in (("a", FIRST, 0.18), ("b", SECOND, -0.18)):
            values = [(row[quantity][side] or 0) / unit for row in kept]
            axes.barh([y + shift for y in places], values, height=0.34, color=color, label=side.upper())
        axes.set_yticks(places, [_wrapped(row["operator"]) for row in kept])
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("MB read and written, unfused")
        axes.legend(loc="lower right", ncols=2)
        return svg(figure, "operators")


def parity(document: Document) -> str:
    """Draw the largest difference per batch and output, with its tolerance and the rounding noise."""
    rows = [row for row in document["rows"] if row["max_abs"] is not None]
    with drawn(1.1 + 0.34 * len(rows), "parity") as (figure, axes):
        places = list(range(len(rows), 0, -1))
        for y, row in zip(places, rows, strict=True):
            color = SECOND if row["ok"] else BAD
            axes.plot([_shown(row["max_abs"])], [y], "o", color=color, markersize=7)
            axes.plot([_shown(row["tolerance"]["atol"])], [y], "|", color=BAD, markersize=14, markeredgewidth=2)
            if row["noise"]:
                axes.plot([_shown(row["noise"])], [y], "|", color=FIRST, markersize=14, markeredgewidth=2)
        values = [row[name] for row in rows for name in ("max_abs", "noise") if row[name] is not None]
        _decades(axes, "x", [*values, *(row["tolerance"]["atol"] for row in rows)])
        axes.set_yticks(places, [f"batch {row['batch']}, {row['inputs']}" for row in rows])
        axes.set_ylim(0.4, len(rows) + 0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("max |Δ|")
        _key(figure, {"difference": ("o", SECOND), "noise": ("|", FIRST), "allowed": ("|", BAD)})
        return svg(figure, "parity")


def blocks(document: Document) -> str:
    """Draw the relative difference after each block, with the difference that rounding explains."""
    from matplotlib.ticker import MaxNLocator

    gaps = [gap for gap in document["bisection"]["blocks"] if gap["rel_l2"] is not None]
    with drawn(2.3, "blocks") as (figure, axes):
        places = range(len(gaps))
        axes.plot(places, [_shown(gap["rel_l2"]) for gap in gaps], "o-", color=SECOND, markersize=4, linewidth=1.2)
        axes.plot(places, [_shown(gap["allowed"]) for gap in gaps], color=BAD, linewidth=1.2, linestyle=(0, (4, 2)))
        bad = [index for index, gap in enumerate(gaps) if not gap["ok"]]
        axes.plot(bad, [_shown(gaps[index]["rel_l2"]) for index in bad], "o", color=BAD, markersize=5)
        _decades(axes, "y", [gap[name] for gap in gaps for name in ("rel_l2", "allowed")])
        axes.set_xlabel("attention or MLP branch, in graph order")
        axes.set_ylabel("relative L2 difference")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _key(figure, {"difference": ("o", SECOND), "explained by rounding": ("_", BAD)})
        return svg(figure, "blocks")


class drawn:
    """A context with a figure and its axes, in the page's width and style."""

    def __init__(self, height: float, name: str) -> None:
        self.height = height
        require()

    def __enter__(self) -> tuple[Figure, Axes]:
        import matplotlib
        from matplotlib.figure import Figure

        self.style = matplotlib.rc_context(STYLE)
        self.style.__enter__()
        figure = Figure(figsize=(WIDTH, self.height), layout="constrained")
        return figure, figure.add_subplot()

    def __exit__(self, *exception: Any) -> None:
        self.style.__exit__(*exception)


def svg(figure: Figure, name: str) -> str:
    """Return the figure as an ``<svg>`` element without prologue and date, with unique ids and the page's colours."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.id": f"plot-{name}"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'id="(?!plot-)([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{name}-", text)
    for color, variable in VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return re.sub(r"font: ([^;\"]*?)(?:'[^']*'|sans-serif)[^;\"]*", r"font: \1var(--sans)", text)


def _control(document: Document) -> tuple[float, Sequence[float]]:
    return document["control"]["ratio"], document["control"]["ci95"]


def _slowdowns(document: Document, other: str) -> list[float]:
    """Return the slow-down of ``b`` or ``control`` in each group in per cent: ``100 (sqrt(B1 B2 / (A1 A2)) − 1)``."""
    return [
        100 * (math.sqrt(b[0] / a[0]) * math.sqrt(b[1] / a[1]) - 1)
        for process in document.get("samples", ())
        for a, b in zip(process["a"], process[other], strict=True)
        if min(*a, *b) > 0
    ]


def _fit(axes: Axes, document: Document, slowdowns: Sequence[float]) -> None:
    """Set the limits of the x axis so that it shows the intervals, the claim and nine tenths of the pairs."""
    ordered = sorted(slowdowns)
    tails = [ordered[int(0.05 * len(ordered))], ordered[int(0.95 * len(ordered)) - 1]] if len(ordered) > 20 else ordered
    bounds = [100 * (bound - 1) for bound in (*document["ci95"], *document["control"]["ci95"])]
    shown = [0.0, 100 * document["claim"], *bounds, *tails]
    margin = 0.08 * (max(shown) - min(shown))
    axes.set_xlim(min(shown) - margin, max(shown) + margin)


def _spread(count: int, y: float) -> list[float]:
    """Return heights around ``y`` that keep neighbouring points apart (a golden-ratio sequence)."""
    return [y + 0.16 * ((number * 0.618034) % 1 - 0.5) for number in range(count)]


def _key(figure: Figure, entries: Mapping[str, tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=color,
            marker=marker,
            linestyle="none",
            markersize=8,
            markeredgewidth=2 if marker == "|" else 1,
        )
        for marker, color in entries.values()
    ]
    figure.legend(handles, list(entries), loc="outside upper left", ncols=3, handletextpad=0.2, columnspacing=1.2)


def _decades(axes: Axes, direction: str, values: Sequence[float | None]) -> None:
    """Make an axis logarithmic over whole decades, with labels only at the decades."""
    from matplotlib.ticker import NullFormatter

    shown = [_shown(value) for value in values if value is not None] or [1e-7, 1e-5]
    low, high = math.floor(math.log10(min(shown))), math.ceil(math.log10(max(shown)))
    axis = axes.xaxis if direction == "x" else axes.yaxis
    axes.set(**{f"{direction}scale": "log", f"{direction}lim": (10.0**low, 10.0 ** max(high, low + 1))})
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", length=0)


def _shown(value: float) -> float:
    """Return the value to draw on a logarithmic axis: zero is drawn at 2^-24."""
    return value or 2.0**-24


def _shortened(site: str) -> str:
    """Return a module path without the inserted operator's own name; a long one is cut at the beginning."""
    path = site.removesuffix("_input").removesuffix(".context_broadcast")
    return path if len(path) <= 24 else f"…{path[-23:]}"


def _wrapped(name: str) -> str:
    return name.replace("scaled_dot_product_attention", "attention (sdpa)")
