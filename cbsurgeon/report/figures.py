"""Formatting numbers, the same in the terminal and on the HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cbsurgeon.vocabulary import INPUTS, inputs_called

COSTS = {
    "params": "parameters",
    "flops": "FLOPs (paper)",
    "operations": "operations",
    "bytes": "bytes moved, unfused",
    "bytes_fused": "bytes moved, fused",
}
"""Quantity of an audit → its name in tables."""


def costs(document: Mapping[str, Any]) -> dict[str, Callable[..., str]]:
    """Return quantity → function that formats it, for the quantities in an audit (older files have fewer)."""
    return {name: size if name.startswith("bytes") else count for name in COSTS if name in document}


def letter(number: int) -> str:
    """Return A, B, C ... for the models of an audit; after Z their numbers."""
    return chr(ord("A") + number) if number < 26 else str(number + 1)


def count(value: float | None, *, signed: bool = False) -> str:
    """Format a count with three or four digits and a decimal unit, such as ``22.05 M``; small values in full."""
    if value is None:
        return "–"
    plus = "+" if signed and value >= 0 else ""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if abs(value) >= size / 10:
            return f"{plus}{value / size:.2f} {unit}"
    return f"{plus}{value:,.0f}"


def size(value: float | None, *, signed: bool = False) -> str:
    """Format a number of bytes in decimal units."""
    if value is None:
        return "–"
    plus = "+" if signed and value >= 0 else ""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= factor:
            return f"{plus}{value / factor:.1f} {unit}"
    return f"{plus}{value:.0f} B"


def percent(share: float | None, digits: int = 2) -> str:
    """Format a signed fraction as a percentage; with more digits if it would be rounded to zero."""
    if share is None:
        return "–"
    if share and abs(share) < 0.5 * 10 ** (-2 - digits):
        return f"{100 * share:+.4f} %"
    return f"{100 * share:+.{digits}f} %"


def slowdown(ratio: float | None) -> str:
    """Format a ratio of times as a percentage: 1.01 as ``+1.00 %``."""
    return "–" if ratio is None else f"{100 * (ratio - 1):+.2f} %"


def interval(bounds: Sequence[float] | None) -> str:
    """Format a confidence interval of ratios of times."""
    return "–" if bounds is None else f"{slowdown(bounds[0])} to {slowdown(bounds[1])}"


def small(value: float | None) -> str:
    """Format a difference with two digits and an exponent; non-finite values are ``null`` in a document."""
    if value is None:
        return "not finite"
    return "0" if value == 0 else f"{value:.1e}"


def milliseconds(seconds: float | None) -> str:
    """Format seconds as ``12.345 ms``."""
    return "–" if seconds is None else f"{1e3 * seconds:.3f} ms"


def indices(numbers: Sequence[int]) -> str:
    """Format a list of indices as ``0,2,6-11``; three or more in a row are joined."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    joined = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(str(number) for number in run) for run in runs]
    return ",".join(joined) or "none"


def place(point: Mapping[str, Any]) -> str:
    """Format batch and image size of a benchmark: ``batch 8, 224 x 224``."""
    stamp = point["environment"]
    size = f", {stamp['size']} x {stamp['size']}" if stamp.get("size") else ""
    return f"batch {stamp.get('batch', 1)}{size}"


MOST_LINES = 12
"""Most kinds of operators that the difference of two graphs lists."""


def counted(number: int, noun: str) -> str:
    """Format a number with a noun: ``1 block``, ``6 blocks``, ``5 processes``."""
    plural = f"{noun}es" if noun.endswith(("s", "ch")) else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def profile(batch: Sequence[int]) -> str:
    """Format the batch profile of an engine: ``1 to 64, tuned for 8``, or ``4 only``."""
    low, best, high = batch
    return f"{low} only" if low == high else f"{low} to {high}, tuned for {best}"


def by_device(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, Mapping[str, Any]]]:
    """Group the rows of a roofline: (device, dtype) → form → row."""
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["hardware"], row["dtype"]), {})[row["form"]] = row
    return found


def share(row: Mapping[str, Any]) -> str:
    """Format a share at the peaks and its estimate as ``0.12 / 0.31 %``; marked with ``!`` if not negligible."""
    return f"{100 * row['least']:.2f} / {100 * row['estimate']:.2f} %{'' if row['negligible'] else ' !'}"


def own_time(document: Mapping[str, Any]) -> str:
    """Return a sentence about the time of the operators that only B executes."""
    share, overhead = document["share"], document["own_time"]["overhead"]
    low, high = (f"{100 * bound:.2f}" for bound in share["ci95"])
    who = "The inserted operators" if document["graph"]["only_inserted"] else "Operators that only B executes"
    taken = f"{who} take {100 * share['value']:.2f} % of a run of B (95 % interval {low} to {high} %)"
    net = f"{percent(overhead['value'])} compared with A, including fusions lost and gained"
    return f"{taken}; {net}; {counted(share['runs'], 'profiled run')} of each"


def profiler(own: Mapping[str, Any]) -> str:
    """Return the name of the profiler and how much longer a run of A takes under it."""
    slowed = own["profiler_overhead"]
    if slowed <= 0:
        return f"{own['method']}; does not slow A down measurably"
    return (
        f"{own['method']}; a run of A takes {100 * slowed:.1f} % longer under it. Operator times of A and B are both "
        "taken under it"
    )


def graph_lines(graph: Mapping[str, Any]) -> list[str]:
    """Return the difference of the executed graphs, one line per kind of operator; the slowest :data:`MOST_LINES`."""
    if not (graph["added"] or graph["removed"] or graph["changed"]):
        return ["both execute the same operators"]
    lines = [(part["microseconds"], f"+ {operators(part)}") for part in graph["added"]]
    lines += [(part["microseconds"], f"- {operators(part)}") for part in graph["removed"]]
    lines += [
        (pair["b"]["microseconds"], f"{operators(pair['b'])} instead of {operators(pair['a'])}")
        for pair in graph["changed"]
    ]
    head = "only inserted operators are added" if graph["only_inserted"] else "other operators differ too"
    shown = [text for _, text in lines]
    if len(lines) > MOST_LINES:
        slowest = sorted(range(len(lines)), key=lambda place: -lines[place][0])[:MOST_LINES]
        shown = [shown[place] for place in sorted(slowest)]
        shown.append(
            f"and {counted(len(lines) - MOST_LINES, 'faster kind')} of operators; all are in the JSON document"
        )
    return [head, *shown]


def operators(part: Mapping[str, Any]) -> str:
    """Format a group of operators: ``6 MatMul float[1,1,197] float[1,197,384] (88 µs)``."""
    shapes = part["inputs"] or part["outputs"]
    return f"{part['count']} {part['op']}{f' {shapes}' if shapes else ''} ({part['microseconds']:.0f} µs)"


def site_times(sites: Sequence[Mapping[str, Any]]) -> str:
    """Format the times of all sites: ``6 sites, 14 to 17 µs each``."""
    times = [site["microseconds"] for site in sites]
    least, most = f"{min(times):.0f}", f"{max(times):.0f}"
    return f"{counted(len(sites), 'site')}, {least if least == most else f'{least} to {most}'} µs each"


def metric(value: float | None, share: bool, *, signed: bool = False) -> str:
    """Format a metric: ``81.40 %`` for a fraction, else ``0.8321``; a difference of fractions is in percentage points
    (``+0.63 pp``)."""
    if value is None:
        return "not finite"
    plus, unit = ("+", "pp") if signed else ("", "%")
    return f"{100 * value:{plus}.2f} {unit}" if share else f"{value:{plus}.4f}"


def span(bounds: Sequence[float] | None, share: bool, *, signed: bool = False) -> str:
    """Format the 95 % confidence interval of a metric."""
    if bounds is None:
        return "–"
    scale, digits, plus = (100, 2, "+" if signed else "") if share else (1, 4, "+" if signed else "")
    low, high = (f"{scale * bound:{plus}.{digits}f}" for bound in bounds)
    return f"{low} to {high}"


def preprocessing(view: Mapping[str, Any]) -> str:
    """Format a preprocessing as one line."""
    height, width = view["size"]
    to = view["resize_to"]
    scaled = {
        "shortest": f"shorter edge to {min(to)}",
        "squash": f"to {to[0]}x{to[1]}",
        "pad": f"into {to[0]}x{to[1]}, rest filled",
        "none": "not resized",
    }.get(view["resize"], view["resize"])
    numbers = " ".join(f"{name} {', '.join(f'{value:g}' for value in view[name])}" for name in ("mean", "std"))
    return (
        f"{scaled} ({view['interpolation']}), crop {height}x{width}, {view['channels'].upper()}, {numbers} "
        f"[{view['source']}]"
    )


def preprocessings(views: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the preprocessing of A and of B as lines with their names; one line if they are the same."""
    lines = {side: preprocessing(view) for side, view in views.items()}
    if len(set(lines.values())) == 1:
        return [("images", next(iter(lines.values())))]
    return [(f"images {side.upper()}", text) for side, text in lines.items()]


def corrected(runs: int) -> str:
    """Return one line about the correction of the intervals of an analysis' findings, and what they are about."""
    return (
        f"all findings together have 95 % confidence: their intervals are corrected for the {runs:,} possible findings "
        "(ranges of layers and quantities); they are about the choice of images, and training again may change more"
    )


def agreement(images: Mapping[str, Any]) -> str:
    """Format the agreement of two models on real images as one line."""
    many = counted(images["samples"], "image")
    said = f"{many} of {images['data']}: the same class for {100 * images['top1']:.2f} %"
    return f"{said}, largest margin lost {small(images['largest_margin_lost'])}"


def unfolded(sites: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line per reason why inserted operators were not folded: ``6 of 6 cb_s: REASON``."""
    groups: dict[tuple[str, str], list[str]] = {}
    for site in sites:
        if not site["form"]:
            groups.setdefault((site["op"], site["reason"]), []).append(site["site"])
    total = Counter(site["op"] for site in sites)
    return [
        f"{names[0] if len(names) == 1 else f'{len(names)} of {total[op]} {op}'}: {reason}"
        for (op, reason), names in groups.items()
    ]


def tolerance(check: Mapping[str, Any]) -> str:
    """Return where the tolerances of a comparison come from; measured ones differ from row to row."""
    found = check["tolerance"]
    kinds = list(dict.fromkeys(row["inputs"] for row in check["rows"]))
    if found["source"] != "measured" or len(kinds) < 2:
        return f"{found['source']}: {found['reason']}"
    measure = found["reason"]
    for kind in kinds:
        measure = measure.removesuffix(f" on {inputs_called(kind)}")
    return f"measured for each kind of inputs: {measure} on these inputs"


def kinds_of_inputs(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what the kinds of generated inputs are: ``generated: random; large: the same, enlarged``."""
    kinds = dict.fromkeys(row["inputs"] for row in rows)
    known = [kind for kind in kinds if kind in INPUTS]
    return "; ".join(f"{kind}: {INPUTS[kind]}" for kind in known)
