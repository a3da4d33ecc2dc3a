"""The JSON documents of verbs whose result is a model or a file, and writing the HTML report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cbsurgeon.checks import Leak
from cbsurgeon.deploy.manifest import read as read_manifest
from cbsurgeon.deploy.onnx.file import read_metadata, require_file
from cbsurgeon.deploy.onnx.metadata import recipes_of
from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.graph.block import APART, GROUPS, Inspection
from cbsurgeon.models import Model
from cbsurgeon.models.files import atomic
from cbsurgeon.operators.registry import operator_class
from cbsurgeon.report import render_html, shown
from cbsurgeon.surgery import Recipe
from cbsurgeon.vocabulary import ENGINE_SUFFIXES

PAGES = (".html", ".htm")
"""Suffixes of a report."""


def insertion(
    model: Model,
    edited: Model,
    recipe: Recipe,
    *,
    blocks: int | None,
    output: Path | None,
    leaks: Sequence[Leak] = (),
    trained: bool = False,
) -> dict[str, Any]:
    """Return the JSON document of an insertion, schema ``cbsurgeon.insert/1``.

    Args:
        model, edited: the model before and after.
        recipe: the recipe.
        blocks: number of blocks of the model; ``None`` if unknown.
        output: the file written; ``None`` for a dry run.
        leaks: the results of the leak probes (:func:`cbsurgeon.checks.leaks_of`).
        trained: whether the weights were saved with these operators in the model.
    """
    document, operator = recipe.to_dict(), operator_class(recipe.op)
    return {
        "schema": "cbsurgeon.insert/1",
        "reference": model.provenance.reference,
        "op": recipe.op,
        "position": recipe.position,
        "layers": recipe.layers,
        "chosen": list(recipe.indices),
        "blocks": blocks,
        "identity_at_start": operator.identity_at_start,
        "trained": trained,
        "formula": operator.formula,
        "sites": [site.to_dict() for site in recipe.active],
        "keys_added": sorted(keys(edited) - keys(model)),
        "leaks": [leak.to_dict() for leak in leaks],
        "dry_run": output is None,
        "output": str(output) if output else None,
        "recipe": document,
    }


def cautions(recipe: Recipe, found: Inspection) -> list[str]:
    """Return the warnings to show after an insertion.

    Args:
        recipe: the recipe that was inserted.
        found: the inspection of the model before the insertion.
    """
    said = []
    if not operator_class(recipe.op).identity_at_start:
        said.append(
            f"{recipe.op} changes what the model computes; train or fine-tune with it. No accuracy is promised for a "
            "finished checkpoint without training."
        )
    chosen = {site.path for site in recipe.active}
    blocks = [block for block in found.blocks if block.path in chosen]
    if recipe.options.get("causal") and not {block.stack for block in blocks} & found.causal_stacks.keys():
        said.append(
            "the causal form was asked for, but no causal mask or order was found: in the attention of these blocks, a "
            "token sees later ones, and in this mean it does not."
        )
    if recipe.layers[:1].isdigit():
        said += [
            f"block {block.index} is of kind {block.kind}, which is not chosen unless its number or kind is given."
            for block in blocks
            if not block.default
        ]
    said += [note for block in blocks for note in block.notes if APART in note or GROUPS in note]
    return list(dict.fromkeys(said))


def removal(model: Model, output: Path) -> dict[str, Any]:
    """Return the JSON document of a removal, schema ``cbsurgeon.remove/1``."""
    return {
        "schema": "cbsurgeon.remove/1",
        "reference": model.provenance.reference,
        "removed": [
            {
                "index": site["index"],
                "op": recipe["op"],
                "position": site["position"],
                "path": site["path"],
            }
            for recipe in model.recipes
            for site in recipe["sites"]
            if site.get("enabled", True)
        ],
        "output": str(output),
    }


def read_inserted(path: str | Path) -> dict[str, Any]:
    """Return the operators in an exported file, from its metadata, schema ``cbsurgeon.inspect/1``.

    For an engine, only the manifest next to it is read.

    Raises:
        InputFileError: the file cannot be read, or cbsurgeon did not write it (CB-ONNX-04).
        MissingPackage: onnx is not installed.
    """
    engine = Path(path).suffix.lower() in ENGINE_SUFFIXES
    if engine:
        require_file(Path(path), "CB-ENGINE-03")
        manifest = read_manifest(Path(path))
        found = None if manifest is None else manifest.get("model")
    else:
        found = read_metadata(path)
    if not isinstance(found, dict):
        raise InputFileError(
            f"the {'engine' if engine else 'ONNX file'} has no information about inserted operators",
            code="CB-ONNX-04",
            where=str(path),
            why="it has no manifest next to it" if engine else "cbsurgeon did not export it",
            do=f"inspect the {'ONNX file' if engine else 'model'} it was made from",
        )
    try:
        recipes = recipes_of(found.get("recipes", []))
    except ValueError as error:
        raise InputFileError(
            "the recipes in the engine's manifest cannot be read",
            code="CB-ENGINE-02",
            where=str(path),
            why=str(error),
            do="build the engine again",
        ) from error
    return {
        "schema": "cbsurgeon.inspect/1",
        "reference": str(path),
        "blocks": [],
        "rejected": [],
        "inserted": recipes,
        "metadata": found,
    }


def write_report(documents: Sequence[Mapping[str, Any]], path: str | Path, *, force: bool = False) -> Path:
    """Write result documents to one self-contained HTML file.

    Args:
        documents: the results of ``to_dict()``, or the ``--json`` output of verbs.
        path: the ``.html`` file.
        force: replace an existing file.

    Raises:
        UsageError: there is nothing to show, or the suffix is not .html or .htm (CB-REPORT-04).
        InputFileError: a document lacks fields of its schema (CB-REPORT-02).
        OutputFileError: the file cannot be written.
        MissingPackage: matplotlib or Jinja2 is not installed.
    """
    with shown(", ".join(str(document.get("schema", "a document")) for document in documents)):
        return write_page(documents, path, force=force)


def write_page(documents: Sequence[Mapping[str, Any]], path: str | Path, *, force: bool = False) -> Path:
    """Write the page of :func:`write_report`; a wrong field is a ``LookupError`` or ``TypeError``."""
    final = Path(path)
    if final.suffix.lower() not in PAGES:
        raise UsageError(
            f"a report has no format with the suffix {final.suffix or '(none)'!r}",
            code="CB-REPORT-04",
            where=str(final),
            why="it is one HTML page",
            do=f"-o {final.with_suffix('.html').name}",
        )
    write_text(final, render_html(documents), force=force)
    return final


def write_text(path: str | Path, text: str, *, force: bool = False) -> None:
    """Write a text file atomically."""
    with atomic.output(path, force=force) as temporary:
        temporary.write_text(text, encoding="utf-8")


def keys(model: Model) -> set[str]:
    """Return the state-dict keys of a model."""
    if model.module is not None:
        return set(model.module.state_dict())
    return set(model.program.state_dict) if model.program is not None else set()
