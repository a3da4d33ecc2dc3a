"""The metadata that cbsurgeon writes into a checkpoint: its architecture, its insertions, its preprocessing.

It is a compact JSON text, stored under the key ``cbsurgeon`` of a safetensors header or of a ``.pt`` dictionary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cbsurgeon.errors import InputFileError
from cbsurgeon.models.files import strict_json
from cbsurgeon.models.preprocessing import Preprocessing, from_dict
from cbsurgeon.version import __version__

SCHEMA = "cbsurgeon.checkpoint/1"
KEY = "cbsurgeon"
"""Name of the document inside a file's metadata."""
LARGEST = strict_json.LARGEST
"""Largest document read, in characters: recipes of thousands of sites need far less."""


@dataclass(frozen=True)
class Metadata:
    """The metadata of a checkpoint.

    Attributes:
        architecture: reference that builds it, or ``None``.
        architecture_options: keyword arguments of that build.
        recipes: insertions made, oldest first, as recipe documents.
        aliases: key → the key whose tensor it shares (tied weights are stored once).
        preprocessing: how images become its input, if that is known.
        input: shapes of the example inputs without the batch, as ``--input`` takes them, for architectures that do not
            know their inputs; may be empty.
        version: version of cbsurgeon that wrote it.
    """

    architecture: str | None = None
    architecture_options: Mapping[str, Any] = field(default_factory=dict)
    recipes: tuple[Mapping[str, Any], ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    input: str = ""
    version: str = __version__

    def to_json(self) -> str:
        """Compact JSON with sorted keys; the same contents give the same bytes."""
        document = {
            "schema": SCHEMA,
            "architecture": self.architecture,
            "architecture_options": dict(self.architecture_options),
            "recipes": [dict(recipe) for recipe in self.recipes],
            "aliases": dict(self.aliases),
            "version": self.version,
        }
        if self.input:
            document["input"] = self.input
        if self.preprocessing is not None:
            document["preprocessing"] = self.preprocessing.to_dict()
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def read(text: Any, where: str) -> Metadata:
    """Parse the document; everything in it is checked.

    Raises:
        InputFileError: it is not our JSON (``CB-META-01``), was written by a newer cbsurgeon (``CB-META-02``), or its
            preprocessing is not valid (``CB-DATA-02``).
    """
    if not isinstance(text, str):
        raise broken(where, f"it is {type(text).__name__}, not text")
    document = parse_json(text, where, LARGEST)
    if not isinstance(document, dict):
        raise broken(where, "it is not an object")
    schema = document.get("schema")
    if schema != SCHEMA:
        raise _other_schema(schema, where)
    architecture, options = document.get("architecture"), document.get("architecture_options", {})
    recipes, aliases = document.get("recipes", []), document.get("aliases", {})
    version, shapes = document.get("version", ""), document.get("input", "")
    if not (architecture is None or isinstance(architecture, str)):
        raise broken(where, "architecture is not text")
    if not isinstance(options, dict):
        raise broken(where, "architecture_options is not an object")
    if not isinstance(recipes, list) or not all(isinstance(recipe, dict) for recipe in recipes):
        raise broken(where, "recipes is not a list of objects")
    if not isinstance(aliases, dict) or not all(isinstance(target, str) for target in aliases.values()):
        raise broken(where, "aliases is not an object of texts")
    if not isinstance(version, str):
        raise broken(where, "version is not text")
    if not isinstance(shapes, str):
        raise broken(where, "input is not text")
    stated = document.get("preprocessing")
    preprocessing = None if stated is None else from_dict(stated, where)
    return Metadata(architecture, options, tuple(recipes), aliases, preprocessing, shapes, version)


def parse_json(text: str | bytes, where: str, largest: int) -> Any:
    """Parse strict JSON: limited in size and depth, without duplicate keys and NaN.

    Raises:
        InputFileError: it is not strict JSON (``CB-META-01``).
    """
    try:
        return strict_json.parse(text, largest=largest)
    except strict_json.NotStrictJSON as error:
        raise broken(where, str(error)) from error


def _other_schema(schema: Any, where: str) -> InputFileError:
    if isinstance(schema, str) and schema.startswith("cbsurgeon.checkpoint/"):
        return InputFileError(
            "the checkpoint was written by another version of cbsurgeon",
            code="CB-META-02",
            where=where,
            why=f"it has schema {schema[:80]!r}, this version reads {SCHEMA!r}",
            do="pip install --upgrade cbsurgeon",
        )
    return broken(where, f"its schema is {str(schema)[:80]!r}, not {SCHEMA!r}")


def broken(where: str, why: str, do: str = "") -> InputFileError:
    """Return the error about metadata that cannot be read (``CB-META-01``), with other advice if ``do`` is given."""
    return InputFileError(
        "the metadata of the checkpoint cannot be read",
        code="CB-META-01",
        where=where,
        why=why,
        do=do
        or "write the file again with cbsurgeon, or copy its tensors into a plain safetensors file and pass --arch",
    )
