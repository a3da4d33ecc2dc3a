"""The results of ``insert`` and ``remove`` as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cbsurgeon.report.document import Document, listed, text_of
from cbsurgeon.report.figures import counted
from cbsurgeon.report.text.lines import Rows, fact, line


def inserted(document: Document, documents: Sequence[Document]) -> Rows:
    """Yield the sites of the inserted operators, and the state-dict keys they added."""
    verb = "would insert" if document["dry_run"] else "inserted"
    yield line(
        f"{verb} {document['op']} at the {document['position']} of {counted(len(document['sites']), 'block')}: "
        f"{listed(document)}",
        "bold",
    )
    yield fact("requested", f"--layers {document['layers']}" if document["layers"] else "the recipe's sites")
    for site in document["sites"]:
        yield fact(str(site["index"]), f"{site['path'] or '(no module)'}  {_effect(document, site)}")
    added = document["keys_added"]
    yield fact(
        "keys",
        f"none changed, {len(added)} added"
        + (f" ({text_of(added[:2])}{' ...' if len(added) > 2 else ''})" if added else ""),
    )
    for leak in document.get("leaks", ()):
        if leak["probed"]:
            yield fact("no leak", f"{leak['what']}; outputs that must not depend on them are unchanged", "green")
        else:
            yield fact("leaks", f"not probed: {text_of(list(leak['not_run'].values()))}", "yellow")
    if document.get("output"):
        yield fact("written", document["output"], "green")


def _effect(document: Document, site: Mapping[str, Any]) -> str:
    """Describe what an operator does at a site: which tokens it averages, or which heads it makes uniform."""
    options = (document.get("recipe") or {}).get("options", {})
    if document["position"] == "query":
        return f"queries of head {text_of([options.get('heads', 0)])} become 0, {site['tokens']} tokens"
    word = "axis" if len(site["token_axes"]) == 1 else "axes"
    axes, tokens = f"{word} {text_of(site['token_axes'])}", f"{site['tokens']} tokens"
    if "mean" not in document.get("formula", "mean"):
        return f"{axes} ({tokens}), {site['channels']} channels"
    mean = "running mean, up to each token," if options.get("causal") else "mean"
    if options.get("masked"):
        mean = "mean without padding"
    if options.get("tokens"):
        tokens = f"tokens {options['tokens']} of {site['tokens']}"
    return f"{mean} over {axes} ({tokens}), {site['channels']} channels"


def removed(document: Document, documents: Sequence[Document]) -> Rows:
    """Yield the removed operators."""
    yield line(f"removed {counted(len(document['removed']), 'operator')}", "bold")
    for site in document["removed"]:
        yield fact(str(site["index"]), f"{site['op']}@{site['position']}  {site['path']}")
    if document.get("output"):
        yield fact("written", document["output"], "green")
