"""Result documents as terminal tables."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cbsurgeon.errors import missing
from cbsurgeon.report import figures
from cbsurgeon.report.document import Document, chosen, kind_of, listed, of_kind, parts, text_of

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Rows = Iterator["RenderableType"]


def render_text(document: Document, *, width: int = 100, color: bool = False) -> str:
    """A result document as text for a terminal of ``width`` columns, without colour codes unless asked.

    Raises:
        MissingPackage: rich is not installed.
    """
    try:
        from rich.console import Console
    except ImportError as error:
        raise missing("rich", "report", "drawing tables") from error
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=width,
        force_terminal=color,
        color_system="auto" if color else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    if kind_of(document) == "ship":
        documents, views = [document], {"ship": lambda part, _: _ship(part)}
    else:
        documents, views = list(parts(document)), VIEWS
    for number, part in enumerate(documents):
        if number:
            console.print()
        for row in views[kind_of(part)](part, documents):
            console.print(row)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def _line(text: str, style: str = "") -> RenderableType:
    from rich.text import Text

    return Text(text, style=style)


def _fact(label: str, value: str, style: str = "") -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    row = Table.grid()
    row.add_column(width=max(13, len(label) + 3))
    row.add_column(overflow="fold")
    row.add_row(Text(f"  {label}", style="dim"), Text(value, style=style))
    return row


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        number = column in right
        table.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def _cells(*values: Any, style: str = "") -> list[RenderableType]:
    from rich.text import Text

    return [Text(text_of(value), style=style) for value in values]


def _inspect(document: Document, documents: Sequence[Document]) -> Rows:
    if "inserted" in document:
        yield from _inserted_before(document)
        return
    blocks, rejected = document["blocks"], document["rejected"]
    yield _line(f"{document.get('reference', 'model')}: {len(blocks)} MLP blocks, {len(rejected)} rejected", "bold")
    if blocks:
        yield _blocks(blocks, chosen(documents))
    for path, reason in document.get("left_out", {}).items():
        yield _fact("left out", f"{path}: {reason}", "yellow")
    for name, label in (("causal", "causal"), ("masks", "masked by")):
        if document.get(name):
            yield _fact(label, text_of(document[name]), "yellow")
    yield from _remarks(document)
    if document.get("show_rejected") and rejected:
        yield _line("")
        yield _rejected(rejected)


def _remarks(document: Document) -> Rows:
    """What is to be known of some blocks: feature maps that leave the model, masks, notes; one line for all alike."""
    remarks: dict[str, list[str]] = {}
    for kind, word in (("blocks", "block"), ("attention", "attention")):
        for block in document.get(kind, ()):
            tap = ["its stream is also an output: --exclude taps leaves it out"] if block.get("tapped") else []
            for remark in [*tap, *block.get("notes", ())]:
                remarks.setdefault(f"{word}|{remark}", []).append(str(block["index"]))
    for remark, indices in remarks.items():
        word, text = remark.split("|", 1)
        yield _fact(word, f"{', '.join(indices)}: {text}")
    for stack, reason in (document.get("unmasked") or {}).items():
        yield _fact("not masked", f"{stack}: {reason}")


def _blocks(blocks: Sequence[Mapping[str, Any]], picked: set[int]) -> Table:
    table = _table(
        "#", "block", "kind", "tokens", "channels", "hidden", "sites", right=("#", "tokens", "channels", "hidden")
    )
    stacks = list(dict.fromkeys(block["stack"] for block in blocks))
    for block in blocks:
        where = block["path"] or "(no module)"
        mark = "  <- here" if block["index"] in picked else "" if block["default"] else "  (on request)"
        stack = f"  [{block['stack']}]" if len(stacks) > 1 else ""
        occupied = [f"{site['occupied']}@{position}" for position, site in block["sites"].items() if site["occupied"]]
        sites = text_of([*block["sites"], *occupied])
        style = "green" if block["index"] in picked else "" if block["default"] else "dim"
        table.add_row(
            *_cells(
                block["index"],
                f"{where}{stack}{mark}",
                block["kind"] + (f" x{block['calls']}" if block["calls"] > 1 else ""),
                block["tokens"],
                block["channels"],
                block["hidden"],
                sites,
                style=style,
            )
        )
    return table


def _rejected(rejected: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("rejected", "reason", "detail")
    for candidate in rejected:
        table.add_row(
            *_cells(candidate["path"] or text_of(candidate["nodes"][:2]), candidate["reason"], candidate["detail"])
        )
    return table


def _inserted_before(document: Document) -> Rows:
    """An exported file: its graph is not read again, its own account of the surgery is."""
    recipes = document["inserted"]
    yield _line(f"{document['reference']}: {len(recipes) or 'no'} insertion{'' if len(recipes) == 1 else 's'}", "bold")
    for recipe in recipes:
        sites = [site for site in recipe["sites"] if site.get("enabled", True)]
        yield _fact("inserted", f"{recipe['op']} at {recipe['position']} of blocks {listed({'sites': sites})}", "green")


def _insert(document: Document, documents: Sequence[Document]) -> Rows:
    verb = "would put" if document["dry_run"] else "put"
    yield _line(
        f"{verb} {document['op']} at {document['position']} of {len(document['sites'])} blocks: {listed(document)}",
        "bold",
    )
    yield _fact("asked for", f"--layers {document['layers']}" if document["layers"] else "the recipe's sites")
    for site in document["sites"]:
        axes = f"mean over axes {text_of(site['token_axes'])} ({site['tokens']} tokens), {site['channels']} channels"
        yield _fact(str(site["index"]), f"{site['path'] or '(no module)'}  {axes}")
    added = document["keys_added"]
    yield _fact("keys", f"none changed, {len(added)} added" + (f" ({text_of(added[:2])} ...)" if added else ""))
    if document.get("output"):
        yield _fact("written", document["output"], "green")


def _remove(document: Document, documents: Sequence[Document]) -> Rows:
    yield _line(f"removed {len(document['removed'])} operators", "bold")
    for site in document["removed"]:
        yield _fact(str(site["index"]), f"{site['op']}@{site['position']}  {site['path']}")
    if document.get("output"):
        yield _fact("written", document["output"], "green")


def _export(document: Document, documents: Sequence[Document]) -> Rows:
    opset = f", opset {document['opset']}" if document.get("opset") else ""
    total = sum(document.get("seconds", {}).values())
    yield _line(f"{document['path']}: {document['format']}{opset}, {document['dtype']}", "bold")
    yield _fact("size", f"{figures.size(document['bytes'])}, written in {total:.1f} s")
    for label, ports in (("in", document["inputs"]), ("out", document["outputs"])):
        for port in ports:
            yield _fact(label, f"{port['name']} {port['dtype']} [{text_of(port['dims'])}]")
    if document.get("batch"):
        low, best, high = document["batch"]
        yield _fact("batch", f"{low} to {high}, tuned for {best}")
    sites = document.get("sites", ())
    if sites:
        folded = [site for site in sites if site["form"]]
        yield _fact("folded", f"{len(folded)} of {len(sites)} inserted operators")
        for site in sites:
            if not site["form"]:
                yield _fact("as written", f"{site['site']}: {site['reason']}")
    if document.get("verify"):
        yield from _verify(document["verify"], documents)


def _verify(document: Document, documents: Sequence[Document]) -> Rows:
    a, b = document["sides"]
    word = "same" if document["ok"] else "DIFFERENT"
    yield _line(f"{word}: {_side(b)} against {_side(a)}", "bold green" if document["ok"] else "bold red")
    numbers = ("batch", "max |Δ|", "rel L2", "cosine", "top-1", "allowed")
    table = _table("", "batch", "inputs", "output", "max |Δ|", "rel L2", "cosine", "top-1", "allowed", right=numbers)
    for row in document["rows"]:
        top = "–" if row["top1"] is None else f"{row['top1']:.0%}"
        cosine = "–" if row["cosine"] is None else f"{row['cosine']:.6f}"
        table.add_row(
            *_cells(
                "[✓]" if row["ok"] else "[x]",
                row["batch"],
                row["inputs"],
                row["output"],
                figures.small(row["max_abs"]),
                figures.small(row["rel_l2"]),
                cosine,
                top,
                figures.small(row["tolerance"]["atol"]),
                style="" if row["ok"] else "red",
            )
        )
    yield table
    yield _fact("tolerance", f"{document['tolerance']['source']}: {document['tolerance']['reason']}")
    if document["first_bad_block"]:
        yield _fact("parts at", document["first_bad_block"], "red")
    for note in document.get("notes", ()):
        yield _fact("note", note, "yellow")
    if not document["ok"]:
        yield _fact("would pass", f"at atol {figures.small(document['would_pass_at'])}")


def _side(side: Mapping[str, Any]) -> str:
    return f"{side['name']} ({side['backend']}, {side['dtype']})"


def _audit(document: Document, documents: Sequence[Document]) -> Rows:
    b = document.get("b")
    head = f"{document['a']} -> {b}" if b else str(document["a"])
    yield _line(f"{head}   (batch {document['batch']}, {document['dtype']})", "bold")
    columns = ("A", "B", "B - A", "share") if b else ("A",)
    table = _table("", *columns, right=columns)
    for name, label in COSTS.items():
        show: Callable[..., str] = figures.size if name == "bytes" else figures.count
        row = document[name]
        cells = [show(row["a"])]
        if b:
            cells += [show(row["b"]), show(row["difference"], signed=True), figures.percent(row["relative"], 4)]
        table.add_row(*_cells(label, *cells))
    yield table
    for side in ("a", "b"):
        uncounted = (document.get("uncounted") or {}).get(side)
        if uncounted:
            yield _fact("uncounted", f"in {side.upper()}: {text_of(uncounted)}", "yellow")
    inserted = (document.get("inserted") or {}).get("b") or (document.get("inserted") or {}).get("a") or []
    for formula, items in _by(inserted, lambda item: f"{item['op']} on {item['tokens']} x {item['channels']}").items():
        yield _fact("counted", f"{len(items)} x {formula}: {items[0]['formula']}")
    if document.get("roofline"):
        yield from _shares(document["roofline"])


def _shares(table: Mapping[str, Any]) -> Rows:
    """The roofline: the operators' share of latency, one row per device and type, one column per form."""
    forms = list(table["forms"])
    yield _line(f"share of latency, at least / likely (batch {table['batch']})", "bold")
    shown = _table("hardware", "type", *forms, right=forms)
    for (device, kind), rows in figures.by_device(table["rows"]).items():
        shown.add_row(*_cells(device, kind), *(_cells(figures.share(rows[form]))[0] for form in forms))
    yield shown
    for name, meaning in table["forms"].items():
        yield _fact(name, meaning)
    yield _fact("assumed", table["assumed"])
    limit = f"{100 * table['negligible_at']:g} %"
    if table["not_negligible"]:
        yield _fact("NOT negligible", f"above {limit}: " + "; ".join(table["not_negligible"]), "yellow")
    else:
        yield _fact("negligible", f"at most {limit} in every row")
    if table["left_out"]:
        yield _fact("left out", "does not compute in it: " + "; ".join(table["left_out"]))


OUTCOMES = {"within": "green", "slower": "red", "inconclusive": "yellow"}
"""The colour of a benchmark's outcome."""

COSTS = {"params": "parameters", "flops": "FLOPs (paper)", "operations": "operations", "bytes": "bytes moved"}
"""The audited quantities, as tables call them."""


def _by(
    items: Sequence[Mapping[str, Any]], label: Callable[[Mapping[str, Any]], str]
) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        groups.setdefault(label(item), []).append(item)
    return groups


def _bench(document: Document, documents: Sequence[Document]) -> Rows:
    style = f"bold {OUTCOMES.get(document['outcome'], '')}".strip()
    yield _line(f"{document['a']} -> {document['b']}: {document['verdict']}", style)
    if document.get("sweep"):
        yield from _points(document["sweep"])
        yield _line(f"the worst, {figures.place(document)}", "bold")
    times = document["median_seconds"]
    columns = ("median", "ratio - 1", "95 % interval", "peak memory")
    table = _table("", *columns, right=columns)
    peak = document["peak_memory"]
    table.add_row(*_cells("A", figures.milliseconds(times["a"]), "", "", figures.size(peak["a"])))
    ratio, ci95 = figures.slowdown(document["ratio"]), figures.interval(document["ci95"])
    table.add_row(*_cells("B", figures.milliseconds(times["b"]), ratio, ci95, figures.size(peak["b"])))
    control = document["control"]
    table.add_row(*_cells("A again", "", figures.slowdown(control["ratio"]), figures.interval(control["ci95"]), ""))
    yield table
    partial = ", partial" if document["partial"] else ""
    yield _fact("pairs", f"{document['pairs']} groups in {document['processes']} processes{partial}")
    for note in document["notes"]:
        yield _fact("note", note, "yellow")


def _points(points: Sequence[Mapping[str, Any]]) -> Rows:
    """A row for each point of a sweep."""
    columns = ("A", "B", "ratio - 1", "95 % interval", "memory A", "memory B")
    table = _table("point", *columns, "answer", right=columns)
    for point in points:
        times, peak = point["median_seconds"], point["peak_memory"]
        table.add_row(
            *_cells(
                figures.place(point),
                figures.milliseconds(times["a"]),
                figures.milliseconds(times["b"]),
                figures.slowdown(point["ratio"]),
                figures.interval(point["ci95"]),
                figures.size(peak["a"]),
                figures.size(peak["b"]),
                point["outcome"],
            )
        )
    yield table


def _ship(document: Document) -> Rows:
    """The answers of a shipment, a line each; ``cbsurgeon report`` shows its parts in full."""
    found = list(parts(document))
    yield _line(f"{document['title']}: {'shipped' if document['ok'] else 'NOT PROVEN'}", "bold")
    for part in of_kind(found, "insert"):
        yield _fact(
            "put",
            f"{part['op']} at {part['position']} of {len(part['sites'])} of {part['blocks']} blocks: {listed(part)}",
        )
    for part in of_kind(found, "verify"):
        yield _fact("parity", _parity(part), "green" if part["ok"] else "red")
    for part in of_kind(found, "audit"):
        yield _fact("cost", "\n".join(_extra(part, name) for name in COSTS))
    for part in of_kind(found, "bench"):
        yield _fact("latency", part["verdict"], OUTCOMES.get(part["outcome"], ""))
    for name, reason in document["left_out"].items():
        yield _fact(f"no {name}", reason, "yellow")
    yield _line("")
    yield _line(f"{document['directory']}/", "bold")
    for name, entry in document["files"].items():
        yield _fact(figures.size(entry["bytes"]), name)
    yield _fact("", "report.html, report.json")


def _parity(document: Document) -> str:
    batches = figures.indices(sorted({row["batch"] for row in document["rows"]}))
    worst = figures.small(document["max_abs"])
    allowed = figures.small(document["tolerance"]["atol"])
    return f"{'same' if document['ok'] else 'DIFFERENT'} at batches {batches}: max |Δ| {worst}, allowed {allowed}"


def _extra(document: Document, name: str) -> str:
    show: Callable[..., str] = figures.size if name == "bytes" else figures.count
    row = document[name]
    return f"{COSTS[name]} {show(row['difference'], signed=True)} ({figures.percent(row['relative'])})"


def _error(document: Document, documents: Sequence[Document]) -> Rows:
    yield _line(f"error: {document['what']}  [{document['code']}]", "bold red")
    for label in ("where", "why", "do"):
        if document.get(label):
            yield _fact(label, document[label])


VIEWS: dict[str, Callable[[Document, Sequence[Document]], Rows]] = {
    "inspect": _inspect,
    "insert": _insert,
    "remove": _remove,
    "export": _export,
    "verify": _verify,
    "audit": _audit,
    "bench": _bench,
    "error": _error,
}
