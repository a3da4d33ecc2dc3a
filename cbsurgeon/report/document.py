"""Result documents (the JSON that verbs print): reading, checking and combining them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cbsurgeon.errors import InputFileError, UsageError

Document = Mapping[str, Any]

REPORT_SCHEMA = "cbsurgeon.report/1"
LARGEST = 64 * 2**20
"""Largest size in bytes of a document. The largest document that a verb writes (a benchmark with all samples) has less
than a tenth of it."""

REQUIRED = {
    "cbsurgeon.inspect": ("blocks", "rejected"),
    "cbsurgeon.insert": ("chosen", "recipe"),
    "cbsurgeon.remove": ("removed",),
    "cbsurgeon.export": ("path", "format"),
    "cbsurgeon.verify": ("ok", "rows", "tolerance"),
    "cbsurgeon.audit": ("params", "flops", "bytes"),
    "cbsurgeon.bench": ("ratio", "ci95", "verdict"),
    "cbsurgeon.evaluate": ("samples", "preprocessing", "metrics", "difference"),
    "cbsurgeon.sweep": ("rows", "runs", "metric"),
    "cbsurgeon.analyze": ("layers", "scales", "images"),
    "cbsurgeon.report": ("documents",),
    "cbsurgeon.ship": ("documents",),
    "cbsurgeon.error": ("code", "what"),
}
"""Kind of document → the fields that are needed to show it."""


def kind_of(document: Document) -> str:
    """Return the verb that wrote a document: ``audit`` for schema ``cbsurgeon.audit/1``."""
    return str(document["schema"]).removeprefix("cbsurgeon.").partition("/")[0]


def read_document(path: str | Path) -> dict[str, Any]:
    """Read one result document.

    Raises:
        InputFileError: the file cannot be read, is too large or is not JSON (CB-REPORT-01), or is not a result document
            of a known version (CB-REPORT-02).
    """
    from cbsurgeon.models.files import strict_json  # here, so that cached results are shown without importing torch

    file = Path(path)
    try:
        if file.stat().st_size > LARGEST:
            raise _unreadable(file, f"it has {file.stat().st_size} bytes, the limit is {LARGEST}")
        document = strict_json.load(file, largest=LARGEST)
    except OSError as error:
        raise _unreadable(file, error.strerror or str(error)) from error
    except strict_json.NotStrictJSON as error:
        raise _unreadable(file, f"it is not JSON: {str(error)[:120]}") from error
    check(document, str(file))
    return document  # type: ignore[no-any-return]


def check(document: Any, where: str) -> None:
    """Raise an error if a JSON value is not a result document.

    Raises:
        InputFileError: the schema is missing or unknown, or a field is missing (CB-REPORT-02).
    """
    schema = document.get("schema") if isinstance(document, dict) else None
    name, _, version = str(schema).partition("/")
    if not isinstance(schema, str) or name not in REQUIRED or version != "1":
        raise _not_ours(where, f"its schema is {schema!r}" if schema else 'it has no "schema"')
    absent = [member for member in REQUIRED[name] if member not in document]
    if absent:
        raise _not_ours(where, f"it lacks {', '.join(absent)}, which a {schema} document has")
    for number, part in enumerate(document["documents"] if "documents" in REQUIRED[name] else ()):
        check(part, f"{where}, document {number}")


def combine(documents: Sequence[Document]) -> dict[str, Any]:
    """Combine documents, in order, to one document of schema ``cbsurgeon.report/1``.

    Raises:
        UsageError: there is nothing to show (CB-REPORT-03).
    """
    found = [dict(part) for document in documents for part in parts(document)]
    if not found:
        raise UsageError(
            "there is nothing to report",
            code="CB-REPORT-03",
            where=f"{len(documents)} documents",
            why="none of them contains a result",
            do="give the --json output of a verb",
        )
    environments = [document["environment"] for document in documents if document.get("environment")]
    merged = {key: value for environment in environments for key, value in environment.items()}
    titles = [str(document["title"]) for document in documents if document.get("title")]
    return {
        "schema": REPORT_SCHEMA,
        "title": titles[0] if titles else _title(found),
        "documents": found,
        "environment": merged,
    }


def parts(document: Document) -> Iterator[Document]:
    """Yield the documents inside a report or a shipment, recursively; any other document itself."""
    if kind_of(document) not in ("report", "ship"):
        yield document
        return
    for part in document["documents"]:
        yield from parts(part)


def displayed(document: Document) -> list[Document]:
    """Return the documents that a result is shown as: its parts, or a shipment itself, whose view has its parts."""
    return [document] if kind_of(document) == "ship" else list(parts(document))


def of_kind(documents: Sequence[Document], kind: str) -> list[Document]:
    """Return the documents of one verb."""
    return [document for document in documents if kind_of(document) == kind]


Place = tuple[bool, int, str]
"""A site: whether its branch is attention (which is numbered separately), the index, and the position."""


def placed(documents: Sequence[Document]) -> dict[Place, str]:
    """Return site → operator for every inserted operator."""
    return {
        (site["kind"] == "attention", int(site["index"]), str(site["position"])): str(document["op"])
        for document in of_kind(documents, "insert")
        for site in document["sites"]
    }


def chosen(documents: Sequence[Document]) -> set[int]:
    """Return the indices of the MLP blocks with an inserted operator."""
    return {index for attention, index, _ in placed(documents) if not attention}


def listed(insertion: Document) -> str:
    """Return the changed blocks as a list: ``6,7,8``, or ``6,7,8 and attention 6,7,8``."""
    indices: dict[bool, list[str]] = {False: [], True: []}
    for site in insertion["sites"]:
        indices[site["kind"] == "attention"].append(str(site["index"]))
    mlp, attention = (",".join(dict.fromkeys(indices[kind])) for kind in (False, True))
    return " and ".join(part for part in (mlp, attention and f"attention {attention}") if part) or "none"


def text_of(value: Any) -> str:
    """Format a JSON value for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(text_of(item) for item in value) or "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {text_of(item)}" for key, item in value.items()) or "–"
    return re.sub(r"\s+", " ", str(value))


@contextmanager
def shown(where: str) -> Iterator[None]:
    """Translate errors in the ``with`` block that are caused by fields of a wrong type in a document.

    Raises:
        InputFileError: a field is not what the schema requires (CB-REPORT-02).
    """
    try:
        yield
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise _not_ours(where, f"a field is not what its schema requires: {type(error).__name__}: {error}") from error


def _title(documents: Sequence[Document]) -> str:
    for document in documents:
        for member in ("reference", "a", "path"):
            if isinstance(document.get(member), str):
                b = (document.get("candidate") or {}).get("name")
                return f"{document[member]} and {b}" if b else str(document[member])
    return "cbsurgeon"


def _unreadable(file: Path, why: str) -> InputFileError:
    return InputFileError(
        "a result file cannot be read",
        code="CB-REPORT-01",
        where=str(file),
        why=why,
        do="give files written by `cbsurgeon VERB --json > file.json`",
    )


def _not_ours(where: str, why: str) -> InputFileError:
    return InputFileError(
        "this is not a result of cbsurgeon",
        code="CB-REPORT-02",
        where=where,
        why=why,
        do="give files written by `cbsurgeon VERB --json > file.json`",
    )
