"""Suggest the reference that a user may have meant by a text that names no model."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from cbsurgeon.errors import CBSurgeonError, InputFileError, UsageError, nearest
from cbsurgeon.models.builders import timm, torchvision, transformers
from cbsurgeon.models.reference import Reference, parse, parse_builder


def reference(text: str) -> Reference | Path:
    """Parse a reference; the error for a name without its kind suggests a reference.

    Raises:
        UsageError, InputFileError: as :func:`cbsurgeon.models.reference.parse`.
    """
    try:
        return parse(text)
    except InputFileError as error:
        raise _with_builder(error, text) from None


def builder(text: str) -> Reference:
    """Parse a reference that must be ``kind:name``, with the same suggestions.

    Raises:
        UsageError: as :func:`cbsurgeon.models.reference.parse_builder`.
    """
    try:
        return parse_builder(text)
    except UsageError as error:
        raise _with_builder(error, text, "--arch ") from None


def _with_builder(error: CBSurgeonError, text: str, flag: str = "") -> CBSurgeonError:
    meant = meaning(text)
    do = f"did you mean {flag}{meant}?" if meant else error.do
    return type(error)(error.what, code=error.code, where=error.where, why=error.why, do=do)


def meaning(text: str) -> str:
    """Return the reference that was probably meant, such as ``timm:vit_base_patch16_224`` for the name alone.

    Exact names come first, then names with a similar spelling; empty if none is similar.
    """
    if text.partition(":")[0].endswith(".py") and Path(text.partition(":")[0]).is_file():
        return f"mod:{text if ':' in text else f'{text}:FUNCTION'}"
    if not text.replace(".", "_").isidentifier():
        return ""
    known = dict(_names(text))
    exact = [f"{kind}:{text}" for kind, names in known.items() if text.partition(".")[0] in names]
    if exact:
        return exact[0]
    alike = {name: kind for kind, names in reversed(known.items()) for name in nearest(text, names, 1)}
    return next((f"{alike[name]}:{name}" for name in nearest(text, alike, 1)), "")


def _names(text: str) -> Iterator[tuple[str, list[str]]]:
    """The names of each installed library; only a class of transformers begins with a capital letter."""
    if text[:1].isupper():
        if importlib.util.find_spec("transformers") is not None:
            yield "hf", transformers.class_names()
        return
    for kind, library in (("timm", timm), ("torchvision", torchvision)):
        if importlib.util.find_spec(kind) is not None:
            yield kind, library.all_names()
