"""What a text that names no model may have meant."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from cbsurgeon.errors import CBSurgeonError, InputFileError, UsageError, nearest
from cbsurgeon.models.builders import timm, torchvision, transformers
from cbsurgeon.models.reference import Reference, parse, parse_builder


def reference(text: str) -> Reference | Path:
    """Read a reference; a name without its kind before it is answered with the reference it may have meant.

    Raises:
        UsageError, InputFileError: as :func:`cbsurgeon.models.reference.parse`.
    """
    try:
        return parse(text)
    except InputFileError as error:
        raise _with_builder(error, text) from None


def builder(text: str) -> Reference:
    """Read a reference that must name a builder, likewise.

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
    """The reference a text may have meant, such as ``timm:vit_base_patch16_224`` for ``vit_base_patch16_224``.

    Names that a library has come first, then names spelt alike; empty where nothing is alike.
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
    """The names of each library that is installed; a class of transformers begins with a capital letter."""
    if text[:1].isupper():
        if importlib.util.find_spec("transformers") is not None:
            yield "hf", transformers.class_names()
        return
    for kind, library in (("timm", timm), ("torchvision", torchvision)):
        if importlib.util.find_spec(kind) is not None:
            yield kind, library.all_names()
