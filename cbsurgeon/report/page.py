"""Rendering result documents as one self-contained HTML file, without network access or scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbsurgeon.escapes import encodable, visible_in
from cbsurgeon.report import accuracy, attention, figures, plots, summary, sweeping
from cbsurgeon.report.document import Document, chosen, combine, listed, of_kind, text_of
from cbsurgeon.report.network import anatomy, panels
from cbsurgeon.version import __version__

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = Path(__file__).with_name("template")
TONES = {"negligible": "good", "faster": "good", "slower": "bad", "inconclusive": "warn"}
SECTIONS = {
    "network": "Found and changed",
    "recipe": "Recipe",
    "parity": "Parity",
    "costs": "Costs",
    "latency": "Latency",
    "attention": "Attention",
    "sweeps": "Sweep",
    "accuracy": "Accuracy",
    "files": "Files",
    "environment": "Environment",
}


def render_html(documents: Sequence[Document]) -> str:
    """Return an HTML page for result documents; every text in it is escaped, control characters included.

    Raises:
        UsageError: there is nothing to show (CB-REPORT-03).
        TypeError: a field of a document is missing, or has another type than its schema requires.
        MissingPackage: matplotlib or Jinja2 is not installed.
    """
    plots.require()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError
    from markupsafe import Markup

    environment = Environment(loader=FileSystemLoader(TEMPLATE), autoescape=True, undefined=StrictUndefined)
    filters: dict[str, Callable[..., Any]] = {
        "count": figures.count,
        "size": figures.size,
        "small": figures.small,
        "slowdown": figures.slowdown,
        "interval": figures.interval,
        "milliseconds": figures.milliseconds,
        "place": figures.place,
        "share": figures.share,
        "own_time": figures.own_time,
        "profiler": figures.profiler,
        "graph_lines": figures.graph_lines,
        "profile": figures.profile,
        "counted": figures.counted,
        "unfolded": figures.unfolded,
        "tolerance": figures.tolerance,
        "kinds_of_inputs": figures.kinds_of_inputs,
        "images": figures.preprocessing,
        "agreement": figures.agreement,
        "text": text_of,
    }
    environment.filters.update(filters)
    page = environment.get_template("page.html")
    shown = [visible_in(document) for document in documents]
    style = Markup((TEMPLATE / "style.css").read_text(encoding="utf-8"))
    try:
        text = page.render(**_content(shown), style=style)
    except UndefinedError as error:  # a field is missing, or is no object
        raise TypeError(str(error)) from error
    return encodable(text) + "\n"


def _content(documents: Sequence[Document]) -> dict[str, Any]:
    """Return the template's variables."""
    report = combine(documents)
    found = report["documents"]
    shipments = [document for document in documents if "files" in document]
    content: dict[str, Any] = {
        "title": report["title"],
        "version": __version__,
        "tones": TONES,
        "chosen": chosen(found),
        "inspections": [{**part, "panels": panels(part, found)} for part in of_kind(found, "inspect")],
        "insertions": [_insertion(part) for part in of_kind(found, "insert")],
        "verifications": [_verification(part) for part in _checks(found)],
        "audits": [_audit(part) for part in of_kind(found, "audit")],
        "benchmarks": [_benchmark(part) for part in of_kind(found, "bench")],
        "analyses": [attention.section(part) for part in of_kind(found, "analyze")],
        "evaluations": [accuracy.section(part) for part in of_kind(found, "evaluate")],
        "sweeps": [sweeping.section(part) for part in of_kind(found, "sweep")],
        "exports": of_kind(found, "export"),
        "files": {name: entry for document in shipments for name, entry in document["files"].items()},
        "left_out": {name: why for document in shipments for name, why in document["left_out"].items()},
        "environment": _environment(report, found),
        "sentences": summary.sentences(found),
        "next_steps": summary.next_steps(documents),
    }
    content["made"] = summary.made(documents, content["environment"])
    content["cards"] = _cards(content)
    content["lead"] = _lead(content)
    content["sections"] = [(name, label) for name, label in SECTIONS.items() if _present(name, content)]
    return content


def _checks(documents: Sequence[Document]) -> list[Document]:
    inside = [document["verify"] for document in of_kind(documents, "export") if document.get("verify")]
    return [*of_kind(documents, "verify"), *inside]


def _present(section: str, content: Mapping[str, Any]) -> bool:
    needs = {
        "network": ("inspections", "insertions"),
        "recipe": ("insertions",),
        "parity": ("verifications",),
        "costs": ("audits",),
        "latency": ("benchmarks",),
        "attention": ("analyses",),
        "accuracy": ("evaluations",),
        "sweeps": ("sweeps",),
        "files": ("exports", "files"),
        "environment": ("environment",),
    }
    return any(content[name] for name in needs[section])


def _insertion(document: Document) -> dict[str, Any]:
    return {
        **document,
        "listed": listed(document),
        "anatomy": anatomy(document),
        "recipe_text": json.dumps(document["recipe"], indent=2, ensure_ascii=False),
    }


def _benchmark(document: Document) -> dict[str, Any]:
    own = document.get("own_time") or {}
    return {
        **document,
        "plot": _svg(plots.latency(document)),
        "sites_plot": _svg(plots.sites(document)) if own.get("sites") else "",
    }


def _verification(document: Document) -> dict[str, Any]:
    drawn = [{"title": "By batch", "svg": _svg(plots.parity(document))}]
    if document.get("bisection") and document["bisection"]["blocks"]:
        drawn.append({"title": "By block", "svg": _svg(plots.blocks(document))})
    return {**document, "plots": drawn}


def _audit(document: Document) -> dict[str, Any]:
    drawn = []
    if document.get("b"):
        drawn.append({"title": "What the operators add", "svg": _svg(plots.costs(document))})
    if document["by_operator"]:
        drawn.append({"title": "Memory traffic by operator", "svg": _svg(plots.operators(document))})
    table = []
    for name, show in figures.costs(document).items():
        row, label = document[name], figures.COSTS[name]
        cells = [show(row["a"])]
        if document.get("b"):
            cells += [show(row["b"]), show(row["difference"], signed=True), figures.percent(row["relative"], 4)]
        table.append({"label": label, "cells": cells, "convention": row["convention"]})
    models = document.get("models", ())
    rows = [_model_row(document, number) for number in range(len(models))] if len(models) > 2 else []
    columns = [figures.COSTS[name] for name in figures.costs(document)]
    inserted = document["inserted"]
    shares = document.get("roofline")
    devices = figures.by_device(shares["rows"]) if shares else {}
    content = {**document, "plots": drawn, "table": table, "inserted_rows": inserted["b"] or inserted["a"]}
    return {
        **content,
        "devices": devices,
        "model_rows": rows,
        "model_columns": columns,
    }


def _model_row(document: Document, number: int) -> dict[str, Any]:
    """Return the table row of one of several audited models: its totals, each with the difference to A."""
    model, cells = document["models"][number], []
    for name, show in figures.costs(document).items():
        extra = f" ({show(model['difference'][name], signed=True)})" if model["difference"] else ""
        cells.append(f"{show(model[name])}{extra}")
    return {"label": f"{figures.letter(number)}: {model['reference']}", "cells": cells, "uncounted": model["uncounted"]}


def _environment(report: Document, documents: Sequence[Document]) -> dict[str, Any]:
    merged = dict(report["environment"])
    for part in (*of_kind(documents, "export"), *of_kind(documents, "bench")):
        merged.update(part.get("versions", {}))
        merged.update(part.get("environment", {}))
    versions = merged.pop("versions", None)
    if isinstance(versions, Mapping):
        merged = {**versions, **merged}
    return merged


def _cards(content: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the summary cards, one per result."""
    cards: list[dict[str, str]] = []

    def card(label: str, value: str, more: str = "", tone: str = "") -> None:
        cards.append({"label": label, "value": value, "more": more, "tone": tone})

    for part in content["insertions"]:
        where = f"{part['op']} at {part['position']}, blocks {figures.indices(part['chosen'])}"
        card("Changed", f"{len(part['chosen'])} of {part['blocks']} blocks", where)
    for part in content["verifications"]:
        ok = part["ok"]
        batches = figures.indices(sorted({row["batch"] for row in part["rows"]}))
        more = f"max |Δ| {figures.small(part['max_abs'])}, batches {batches}"
        card("Parity", "same" if ok else "DIFFERENT", more, "good" if ok else "bad")
    for part in content["audits"]:
        if part.get("b"):
            flops, params = part["flops"], part["params"]
            added = figures.count(params["difference"], signed=True)
            more = f"{figures.percent(flops['relative'], 4)}; parameters {added}"
            card("FLOPs (paper)", figures.count(flops["difference"], signed=True), more)
    for part in content["benchmarks"]:
        card("Latency", *_latency(part), TONES.get(part["verdict"], ""))
    for part in content["analyses"]:
        card("Attention", *attention.card(part))
    for part in content["evaluations"]:
        card("Accuracy", *accuracy.card(part))
    return cards


def _latency(document: Document) -> tuple[str, str]:
    """Return the verdict as one word, and the interval that decides it."""
    word = "INCONCLUSIVE" if document["verdict"] == "inconclusive" else str(document["verdict"])
    if document.get("own_time"):
        low, high = (figures.percent(bound) for bound in document["own_time"]["overhead"]["ci95"])
        return word, f"{low} to {high} by own time"
    return word, f"{figures.interval(document['ci95'])} end to end"


def _lead(content: Mapping[str, Any]) -> str:
    kinds = {"inspections": "structure", "verifications": "parity", "audits": "costs", "benchmarks": "latency"}
    kinds |= {"analyses": "attention", "evaluations": "accuracy", "sweeps": "sweep"}
    present = [label for name, label in kinds.items() if content[name]]
    return "Context Broadcasting surgery: " + (", ".join(present) or "files") + "."


def _svg(text: str) -> Markup:
    """Mark a plot as safe HTML: matplotlib escapes the texts it draws."""
    from markupsafe import Markup

    return Markup(text)
