"""The section of the HTML page about an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cbsurgeon.report import figures
from cbsurgeon.report.document import Document

TONES = {"green": "good", "red": "bad", "yellow": "warn"}
MOST_ROWS = 200
"""Most images listed."""


def section(document: Document) -> dict[str, Any]:
    """Return the template's variables for one evaluation."""
    words, colour = verdict(document)
    claim, titles, classes = document.get("claim"), document["titles"], document.get("classes", ())
    return {
        **document,
        "answer": words,
        "tone": TONES[colour],
        "claim_text": claimed(claim, titles) if claim else "",
        "columns": columns(document),
        "rows": rows(document),
        "robust_columns": robust_columns(document),
        "robust_rows": robust_rows(document),
        "robust_title": next((about["title"] for about in titles.values()), ""),
        "agreement_text": agreed(document) if document.get("agreement") else "",
        "flipped_rows": [_flip(flip, classes) for flip in document.get("flipped", ())[:MOST_ROWS]],
    }


def card(document: Document) -> tuple[str, str, str]:
    """Return the text, the detail and the tone of the evaluation's summary card."""
    words, colour = verdict(document)
    first = next(iter(document["titles"].items()), None)
    if first is None:
        return words, "", TONES[colour]
    name, about = first
    values = [figures.metric(document["metrics"][side].get(name), about["share"]) for side in document["metrics"]]
    names = [f"{letter.upper()} {value}" for letter, value in zip(document["metrics"], values, strict=True)]
    return words, f"{about['title']}: {', '.join(names if len(names) > 1 else values)}", TONES[colour]


def place(side: Mapping[str, Any]) -> str:
    """Return the file and the back end of a side: ``model.onnx (onnxruntime)``."""
    return f"{Path(str(side['name'])).name} ({side['backend']})"


def verdict(document: Document) -> tuple[str, str]:
    """Return the verdict in a few words, and its colour."""
    kinds = {finding["kind"] for finding in document["findings"]}
    claim = document.get("claim")
    if kinds - {"worse"}:
        return "NOT COMPARABLE" if "b" in document["sides"] else "WRONG", "red"
    if not document["ok"]:
        return "WORSE", "red"
    if claim:
        open_claim = claim["verdict"] == "inconclusive"
        return ("INCONCLUSIVE", "yellow") if open_claim else ("as good as claimed", "green")
    if "b" not in document["sides"]:
        return "measured", "green"
    if (document.get("agreement") or {}).get("value") == 1.0:
        return "same predictions", "green"
    return _compared(document)


def _compared(document: Document) -> tuple[str, str]:
    """The verdict on two models whose metrics differ by no more than is allowed; it names every metric that is worse.

    A metric is worse if its whole confidence interval is on the worse side.
    """
    if not document["titles"]:
        return "compared", "green"
    worse = []
    for name, about in document["titles"].items():
        gap = document["difference"][name]
        low, high = gap["ci95"] or (0.0, 0.0)
        if (high < 0) if gap["better"] == "higher" else (low > 0):
            worse.append(about["title"])
    if not worse:
        return "not shown to be worse", "green"
    first = next(iter(document["titles"].values()))["title"]
    before = "" if first in worse else f"{first} not shown to be worse, "
    return f"{before}{' and '.join(worse)} {'are' if len(worse) > 1 else 'is'} worse", "yellow"


def claimed(claim: Mapping[str, Any], titles: Mapping[str, Any]) -> str:
    """Return a sentence with a claim and its verdict."""
    metric = titles[claim["metric"]]["title"]
    said = f"{metric} of B is at most {100 * claim['limit']:g} percentage points worse"
    words = {"true": "true with 95 % confidence", "false": "false with 95 % confidence", "inconclusive": "INCONCLUSIVE"}
    needed = f"; about {claim['needed']:,} images would settle it" if claim["needed"] else ""
    return f"{said}: {words[claim['verdict']]}{needed}"


def agreed(document: Document) -> str:
    """Return a sentence about how often both models predict the same."""
    found, distance = document["agreement"], document["distance"]
    low, high = found["ci95"]
    apart = "" if distance is None else f"; relative L2 distance of the outputs {figures.small(distance)}"
    return f"{100 * found['value']:.2f} % of images (95 % interval {100 * low:.2f} to {100 * high:.2f}){apart}"


def columns(document: Document) -> tuple[str, ...]:
    """Return the headings of the table of metrics, without the first."""
    return ("A", "B", "B - A", "95 % interval") if "b" in document["sides"] else ("value", "95 % interval")


def rows(document: Document) -> list[list[str]]:
    """Return the rows of the table of metrics; with two models, the interval is that of the difference."""
    found = []
    for name, about in document["titles"].items():
        share = about["share"]
        shown = [figures.metric(document["metrics"][side].get(name), share) for side in document["metrics"]]
        if "b" in document["sides"]:
            gap = document["difference"][name]
            shown += [figures.metric(gap["value"], share, signed=True), figures.span(gap["ci95"], share, signed=True)]
        else:
            shown.append(figures.span(document["intervals"]["a"].get(name), share))
        found.append([about["title"], *shown])
    return found


def robust_columns(document: Document) -> tuple[str, ...]:
    """Return the headings of the table of corruptions, without the first."""
    return ("A", "B", "B - A", "95 % interval") if "b" in document["sides"] else ("value", "over seeds")


def robust_rows(document: Document) -> list[list[str]]:
    """Return the first metric under each corruption; the interval is that of the difference, or over seeds."""
    found = []
    for row in document.get("robust", ()):
        name, about = next(iter(document["titles"].items()))
        share = about["share"]
        shown = [figures.metric(row["metrics"][side].get(name), share) for side in row["metrics"]]
        if "b" in document["sides"]:
            gap = row["difference"][name]
            shown += [figures.metric(gap["value"], share, signed=True), figures.span(gap["ci95"], share, signed=True)]
        else:
            shown.append(figures.span(row.get("over_seeds", {}).get("a", {}).get(name), share))
        seeds = f", {row['seeds']} seeds" if row["seeds"] > 1 else ""
        found.append([f"{row['words']}{seeds}", *shown])
    return found


def class_name(number: int | None, classes: Sequence[str]) -> str:
    """Return a class's number and, if it has one, its name."""
    if number is None:
        return "–"
    return f"{number} ({classes[number]})" if number < len(classes) and classes[number] != str(number) else str(number)


def _flip(flip: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    names = {f"{key}_text": class_name(flip[key], classes) for key in ("label", "a", "b")}
    thumbnail = str(flip.get("thumbnail", ""))
    safe = thumbnail.startswith("data:image/jpeg;base64,")
    return {**flip, **names, "thumbnail": thumbnail if safe else ""}
