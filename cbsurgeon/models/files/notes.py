"""Read which insertions the weights of a file were trained with: from notes in a state dict or from a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cbsurgeon.errors import InputFileError
from cbsurgeon.models.files import metadata
from cbsurgeon.operators.common.notes import NOTE, RECIPES

Recipes = tuple[Mapping[str, Any], ...]

CHILDREN = {"output": "context_broadcast", "input": "context_broadcast_input"}
"""Name of the child module that is an operator, by whether it runs on the layer's output or input."""

_FOR_PEOPLE = ("layers", "reference", "versions", "excluded", "given")
_MOST = 64
"""Largest number of recipes in a file."""


def read(state: Any, where: str) -> Recipes:
    """Return the recipes in the notes of a state dict that ``torch.save`` wrote; empty if there are none.

    Nothing in the file is trusted: the notes are JSON of limited size, and every noted operator must be at a site of
    its recipe.

    Raises:
        InputFileError: the notes cannot be read (CB-META-01), or operators and recipes differ (CB-META-03).
    """
    noted = getattr(state, "_metadata", None)
    if not isinstance(noted, Mapping):
        return ()
    places: dict[str, list[str]] = {}
    for path, entry in noted.items():
        if isinstance(path, str) and isinstance(entry, Mapping) and isinstance(entry.get(NOTE), str):
            places.setdefault(entry[NOTE], []).append(path)
    texts = noted.get(RECIPES, {})
    if not isinstance(texts, Mapping) or len(texts) > _MOST:
        raise _other(where, "its list of recipes is not a list, or is too long")
    found = []
    for key, paths in places.items():
        if not isinstance(texts.get(key), str):
            raise _other(where, f"it notes an operator at {paths[0][:80]} but no recipe for it")
        document = metadata.parse_json(texts[key], where, metadata.LARGEST)
        if not isinstance(document, dict):
            raise _other(where, "a recipe is not an object")
        _check_places(document, paths, where)
        found.append(document)
    return tuple(found)


def _check_places(document: Mapping[str, Any], paths: list[str], where: str) -> None:
    """Check that the noted operators are exactly those of the recipe, in one or several copies (wrapped models)."""
    try:
        wanted = {
            f"{site['hooks'][0]['module']}.{CHILDREN[site['hooks'][0]['when']]}"
            for site in document["sites"]
            if site.get("enabled", True)
        }
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _other(where, f"a recipe cannot be read: {type(error).__name__}: {error}") from error
    left = {path.replace("_orig_mod.", "") for path in paths}
    while left:
        path = min(left)
        ends = [each for each in wanted if path == each or path.endswith(f".{each}")]
        prefix = path.removesuffix(max(ends, key=len)) if ends else path
        here = {prefix + each for each in wanted}
        if not ends or not here <= left:
            raise _other(where, f"the operator at {path[:80]} and its recipe's sites differ")
        left -= here


def of_configuration(entry: Any, where: str) -> Recipes:
    """Return the recipes in a transformers configuration.

    Raises:
        InputFileError: the entry is not a list of recipes (CB-META-03).
    """
    if entry is None:
        return ()
    if not isinstance(entry, list) or len(entry) > _MOST or not all(isinstance(each, dict) for each in entry):
        raise _other(where, "its cbsurgeon entry is not a list of recipes")
    return tuple(entry)


def joined(own: Iterable[Mapping[str, Any]], given: Iterable[Mapping[str, Any]], where: str) -> Recipes:
    """Return the recipes of a file, or those that a caller gives.

    Raises:
        InputFileError: the file has recipes, and the caller gives others (CB-META-04).
    """
    carried, asked = tuple(own), tuple(given)
    if not carried or not asked:
        return carried or asked
    if [_identity(each) for each in carried] == [_identity(each) for each in asked]:
        return carried
    raise InputFileError(
        "the file carries another recipe than the one given",
        code="CB-META-04",
        where=where,
        why=f"its weights were trained with {', '.join(_summary(each) for each in carried)}, and the recipe given is "
        f"{', '.join(_summary(each) for each in asked)}",
        do="leave out --trained-with (recipe=...): the file is read with its own",
    )


def _identity(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in _FOR_PEOPLE}


def _summary(document: Mapping[str, Any]) -> str:
    sites = document.get("sites")
    indices = [str(site.get("index")) for site in sites if isinstance(site, Mapping)] if isinstance(sites, list) else []
    return f"{str(document.get('op'))[:40]} at blocks {','.join(indices)[:80]}"


def _other(where: str, why: str) -> InputFileError:
    return InputFileError(
        "the recipe note in the state dict cannot be read",
        code="CB-META-03",
        where=where,
        why=why,
        do="save the state dict of the whole edited model, or give the recipe yourself with a file without notes: "
        "torch.save(dict(state), file)",
    )
