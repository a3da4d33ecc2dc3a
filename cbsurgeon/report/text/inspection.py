"""The result of ``inspect`` as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from cbsurgeon.report.document import Document, chosen, listed, text_of
from cbsurgeon.report.figures import counted
from cbsurgeon.report.text.lines import Rows, cells, fact, grid, line

if TYPE_CHECKING:
    from rich.table import Table


def inspected(document: Document, documents: Sequence[Document]) -> Rows:
    """Yield the blocks, notes about them and, if requested, the rejected candidates."""
    if "inserted" in document:
        yield from _inserted_before(document)
        return
    blocks, rejected = document["blocks"], document["rejected"]
    yield line(
        f"{document.get('reference', 'model')}: {counted(len(blocks), 'MLP block')}, {len(rejected)} rejected", "bold"
    )
    if blocks:
        yield _blocks(blocks, chosen(documents))
    operators = document.get("operators", ())
    for op in dict.fromkeys(one["op"] for one in operators):
        paths = [one["path"].rpartition(".")[0] or "(the model)" for one in operators if one["op"] == op]
        yield fact("inserted", f"{op} at {counted(len(paths), 'site')}: {', '.join(paths)}", "green")
    if document.get("attentions"):
        yield line(f"{counted(len(document['attentions']), 'attention')}", "bold")
        yield _attentions(document["attentions"])
    for path, reason in document.get("left_out", {}).items():
        yield fact("left out", f"{path}: {reason}", "yellow")
    for name, label in (("causal", "causal"), ("masks", "masked by")):
        if document.get(name):
            yield fact(label, text_of(document[name]), "yellow")
    yield from _remarks(document)
    if document.get("show_rejected") and rejected:
        yield from _rejected(rejected)


def _remarks(document: Document) -> Rows:
    """Yield notes about blocks (outputs of the stream, masks), one line for all blocks with the same note."""
    remarks: dict[str, list[str]] = {}
    for kind, word in (("blocks", "block"), ("attention", "attention")):
        for block in document.get(kind, ()):
            tap = ["its residual stream is also an output; --exclude taps leaves it out"] if block.get("tapped") else []
            for remark in [*tap, *block.get("notes", ())]:
                remarks.setdefault(f"{word}|{remark}", []).append(str(block["index"]))
    for remark, indices in remarks.items():
        word, text = remark.split("|", 1)
        yield fact(word, f"{', '.join(indices)}: {text}")
    for stack, reason in (document.get("unmasked") or {}).items():
        yield fact("not masked", f"{stack}: {reason}")


def _blocks(blocks: Sequence[Mapping[str, Any]], picked: set[int]) -> Table:
    table = grid(
        "#", "block", "kind", "tokens", "channels", "hidden", "sites", right=("#", "tokens", "channels", "hidden")
    )
    stacks = list(dict.fromkeys(block["stack"] for block in blocks))
    for block in blocks:
        where = block["path"] or "(no module)"
        mark = "  <- inserted" if block["index"] in picked else "" if block["default"] else "  (on request)"
        stack = f"  [{block['stack']}]" if len(stacks) > 1 else ""
        sites = text_of(
            [
                f"{site['occupied']}@{position}" if site["occupied"] else position
                for position, site in block["sites"].items()
            ]
        )
        style = "green" if block["index"] in picked else "" if block["default"] else "dim"
        table.add_row(
            *cells(
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


def _attentions(attentions: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of attentions; consecutive equal ones are in one row."""
    table = grid(
        "#", "attention", "kind", "heads", "queries", "keys", "tokens", right=("heads", "queries", "keys")
    )  # fmt: skip
    for form, run in groupby(attentions, key=_form):
        own = list(run)
        first, last = own[0], own[-1]
        paths = [one["path"] or "(no module)" for one in (first, last)]
        several = first["index"] != last["index"]
        numbers = f"{first['index']}-{last['index']}" if several else str(first["index"])
        where = paths[0] if paths[0] == paths[1] else f"{paths[0]} to {paths[1]}"
        kind = ", ".join([first["kind"], *(word for word in ("causal", "masked") if first[word])])
        table.add_row(*cells(numbers, where, kind, *form[1:4], _tokens(first)))
    return table


def _form(one: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the properties that attentions in one row of the table have in common."""
    names = ("stack", "heads", "queries", "keys", "kind", "causal", "masked", "windows", "class_token", "mixed")
    return (*(one[name] for name in names), tuple(one["learned"]), tuple(one["grid"] or ()))


def _tokens(one: Mapping[str, Any]) -> str:
    """Describe the tokens of an attention, with windows and talking heads."""
    words = []
    if one["grid"]:
        words.append("x".join(map(str, one["grid"])))
    learned = len(one["learned"]) - (one["class_token"] is not None)
    if one["class_token"] is not None:
        words.append("class token")
    if learned:
        words.append(f"{learned} learned")
    text = " + ".join(words)
    windows = f"{one['windows']} windows" if one["windows"] > 1 else ""
    mixed = "heads mixed" if one["mixed"] else ""
    return ", ".join(filter(None, (text, windows, mixed)))


def _rejected(rejected: Sequence[Mapping[str, Any]]) -> Rows:
    """Yield the rejected candidates by reason, with the parts of an MLP branch that they have."""
    reasons = dict.fromkeys(str(candidate["reason"]) for candidate in rejected)
    for reason in reasons:
        alike = [candidate for candidate in rejected if candidate["reason"] == reason]
        yield line("")
        yield line(f"{reason}: {alike[0].get('sentence', 'see the detail')}", "bold")
        table = grid("rejected", "has", "detail")
        for candidate in alike:
            table.add_row(
                *cells(
                    candidate["path"] or text_of(candidate["nodes"][:2]),
                    text_of(candidate.get("reached", ())),
                    candidate["detail"],
                )
            )
        yield table


def _inserted_before(document: Document) -> Rows:
    """Yield the operators in an exported file, from its metadata."""
    recipes = document["inserted"]
    yield line(f"{document['reference']}: {len(recipes) or 'no'} insertion{'' if len(recipes) == 1 else 's'}", "bold")
    for recipe in recipes:
        sites = [site for site in recipe["sites"] if site.get("enabled", True)]
        yield fact("inserted", f"{recipe['op']} at {recipe['position']} of blocks {listed({'sites': sites})}", "green")
