"""The results of ``insert`` and ``remove`` as lines."""

from __future__ import annotations

from collections.abc import Sequence

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
        word = "axis" if len(site["token_axes"]) == 1 else "axes"
        axes = f"mean over {word} {text_of(site['token_axes'])} ({site['tokens']} tokens), {site['channels']} channels"
        yield fact(str(site["index"]), f"{site['path'] or '(no module)'}  {axes}")
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


def removed(document: Document, documents: Sequence[Document]) -> Rows:
    """Yield the removed operators."""
    yield line(f"removed {counted(len(document['removed']), 'operator')}", "bold")
    for site in document["removed"]:
        yield fact(str(site["index"]), f"{site['op']}@{site['position']}  {site['path']}")
    if document.get("output"):
        yield fact("written", document["output"], "green")
