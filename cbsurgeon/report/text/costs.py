"""The result of ``audit`` as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cbsurgeon.report import figures
from cbsurgeon.report.document import Document, text_of
from cbsurgeon.report.text.lines import Rows, cells, fact, grid, line


def audited(document: Document, documents: Sequence[Document]) -> Rows:
    """Yield parameters, FLOPs, operations and bytes of A and B, and the difference."""
    b = document.get("b")
    head = f"{document['a']} -> {b}" if b else str(document["a"])
    yield line(f"{head}   (batch {document['batch']}, {document['dtype']})", "bold")
    columns = ("A", "B", "B - A", "B / A - 1") if b else ("A",)
    table = grid("", *columns, right=columns)
    for name, show in figures.costs(document).items():
        row, label = document[name], figures.COSTS[name]
        values = [show(row["a"])]
        if b:
            values += [show(row["b"]), show(row["difference"], signed=True), figures.percent(row["relative"], 4)]
        table.add_row(*cells(label, *values))
    yield table
    if len(document.get("models", ())) > 2:
        yield from _models(document)
    if document.get("bytes_explained"):
        yield fact("bytes", document["bytes_explained"])
    for side in ("a", "b"):
        uncounted = (document.get("uncounted") or {}).get(side)
        if uncounted:
            yield fact("uncounted", f"in {side.upper()}: {text_of(uncounted)}", "yellow")
    inserted = (document.get("inserted") or {}).get("b") or (document.get("inserted") or {}).get("a") or []
    for formula, items in _by(inserted, lambda item: f"{item['op']} on {item['tokens']} x {item['channels']}").items():
        yield fact("counted", f"{len(items)} x {formula}: {items[0]['formula']}")
    for checked in document.get("cross_check") or ():
        yield from _cross_checked(checked)
    if document.get("roofline"):
        yield from _shares(document["roofline"])


def _models(document: Document) -> Rows:
    """Yield a table with one column per model, and a second one with the differences to A."""
    shown, models = figures.costs(document), document["models"]
    letters = [figures.letter(number) for number in range(len(models))]
    yield line("all models", "bold")
    for letter, model in zip(letters, models, strict=True):
        yield fact(letter, model["reference"])
    table = grid("", *letters, right=letters)
    for name, show in shown.items():
        table.add_row(*cells(figures.COSTS[name], *(show(model[name]) for model in models)))
    yield table
    columns = [f"{letter} - A" for letter in letters[1:]]
    table = grid("", *columns, right=columns)
    for name, show in shown.items():
        differences = (show(model["difference"][name], signed=True) for model in models[1:])
        table.add_row(*cells(figures.COSTS[name], *differences))
    yield table
    for number, model in enumerate(document["models"][2:], start=2):
        if model["uncounted"]:
            yield fact("uncounted", f"in {figures.letter(number)}: {text_of(model['uncounted'])}", "yellow")


def _cross_checked(checked: Mapping[str, Any]) -> Rows:
    """Yield the FLOPs of one model by the audit and by fvcore, and every operator that they count differently."""
    yield line(f"fvcore on {checked['reference']}   (FLOPs, batch {checked['batch']})", "bold")
    columns = ("audit", "fvcore", "difference")
    table = grid("", *columns, "why", right=columns)
    for row in (checked, *checked["explained"]):
        difference = figures.count(row["ours"] - row["fvcore"], signed=True)
        label, why = row.get("operator", "all"), row.get("why", "")
        table.add_row(*cells(label, figures.count(row["ours"]), figures.count(row["fvcore"]), difference, why))
    yield table
    if checked["ok"]:
        yield fact("explained", "completely", "green")
    else:
        rest = f"{checked['unexplained']:+,} FLOPs, {checked['unexplained_operations']:+,} operations"
        yield fact("NOT explained", rest, "red")


def _shares(table: Mapping[str, Any]) -> Rows:
    """Yield the operators' share of latency, with one row per device and type and one column per form."""
    forms = list(table["forms"])
    yield line(f"share of latency, at the peaks / estimate (batch {table['batch']})", "bold")
    shown = grid("hardware", "type", *forms, right=forms)
    for (device, kind), rows in figures.by_device(table["rows"]).items():
        shown.add_row(*cells(device, kind, *(figures.share(rows[form]) for form in forms)))
    yield shown
    for name, meaning in table["forms"].items():
        yield fact(name, meaning)
    yield fact("assumed", table["assumed"])
    limit = f"{100 * table['negligible_at']:g} %"
    if table["not_negligible"]:
        above = [row for row in table["rows"] if not row["negligible"]]
        worst = max(above, key=lambda row: row["estimate"])
        most = f"most {100 * worst['estimate']:.1f} %: {worst['hardware']}, {worst['dtype']}, {worst['form']}"
        number = f"{len(above)} of {len(table['rows'])} estimates, marked !"
        yield fact("NOT negligible", f"above {limit}: {number}; {most}", "yellow")
    else:
        yield fact("negligible", f"at most {limit} in every row")
    if table["left_out"]:
        yield fact("left out", "type not supported: " + "; ".join(table["left_out"]))


def _by(
    items: Sequence[Mapping[str, Any]], label: Callable[[Mapping[str, Any]], str]
) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        groups.setdefault(label(item), []).append(item)
    return groups
