"""Checking the outputs of a command against its inputs, so that no input is ever overwritten."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from cbsurgeon.errors import CBSurgeonError, OutputFileError
from cbsurgeon.vocabulary import ENGINE_SUFFIXES


class OutputPath(click.Path):
    """The type of parameters that are outputs; every other parameter may be an input.

    Attributes:
        replaced: whether it is a folder that is replaced as a whole.
    """

    def __init__(self, *, replaced: bool = False) -> None:
        super().__init__(path_type=Path)
        self.replaced = replaced


def refuse_inputs(context: click.Context) -> None:
    """Raise an error if an output is one of the inputs, is inside one, or is given twice.

    Inputs are examined only if an output exists already, because a new file overwrites nothing.

    Raises:
        OutputFileError: an output is an input (CB-OUT-03), or two outputs are one file (CB-OUT-10).
    """
    outputs, texts = _given(context)
    _refuse_twins(outputs)
    existing = [(path, replaced) for output, replaced in outputs for path in _written(output) if _exists(path)]
    if not existing:
        return
    for text in texts:
        for place in _places(text):
            for path, replaced in existing:
                if why := _clash(path, place, replaced):
                    raise OutputFileError(
                        "the output is one of the inputs",
                        code="CB-OUT-03",
                        where=str(path),
                        why=f"{why}; an input is never overwritten",
                        do="give another folder" if path.is_dir() else "give another file",
                    )


def _given(context: click.Context) -> tuple[list[tuple[Path, bool]], list[str]]:
    """Return the outputs, and every other value that could be a file."""
    outputs: list[tuple[Path, bool]] = []
    texts: list[str] = []
    for parameter in context.command.params:
        value: Any = context.params.get(str(parameter.name))
        values = [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, str | Path)]
        if isinstance(parameter.type, OutputPath):
            outputs += [(Path(one), parameter.type.replaced) for one in values]
        elif not isinstance(parameter.type, click.Choice):
            texts += map(str, values)
    return outputs, texts


def _refuse_twins(outputs: list[tuple[Path, bool]]) -> None:
    seen: dict[str, Path] = {}
    for path, _ in outputs:
        twin = seen.setdefault(os.path.realpath(path), path)
        if twin is not path:
            raise OutputFileError(
                "two outputs are the same file",
                code="CB-OUT-10",
                where=f"{twin} and {path}",
                why="the second would replace the first",
                do="give each output a different name",
            )


def _written(path: Path) -> tuple[Path, ...]:
    """Return the output, and the second file that an export writes next to it."""
    suffix = path.suffix.lower()
    more = ".data" if suffix == ".onnx" else ".json" if suffix in ENGINE_SUFFIXES else ""
    return (path, path.with_name(path.name + more)) if more else (path,)


def _places(text: str) -> Iterator[Path]:
    """Yield the existing files and folders that a value can refer to, also between colons (``mod:file.py:make``)."""
    parts = text.split(":")
    names = {":".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)} - {""}
    for name in sorted(names):
        if _exists(path := Path(name)):
            yield path
            yield from _read_with(path)


def _read_with(path: Path) -> Iterable[Path]:
    """Return the files that are read together with a file: shards of an index, external data of an ONNX file."""
    if path.name.endswith(".index.json"):
        return path.parent.glob("*.safetensors")
    if path.suffix.lower() != ".onnx" or not path.is_file():
        return ()
    from cbsurgeon.deploy.onnx.file import external_files

    try:
        return external_files(path)
    except CBSurgeonError:
        return ()  # the verb reports the error in the file


def _clash(output: Path, place: Path, replaced: bool) -> str:
    """Return how writing an output would change an input; empty if it would not."""
    if _same(output, place):
        return f"it is the same as {place}"
    if place.is_dir() and any(_same(above, place) for above in _above(output)):
        return f"it is in the folder {place}"
    if replaced and any(_same(above, output) for above in _above(place)):
        return f"{place} is in it, and the folder is replaced as a whole"
    return ""


def _above(path: Path) -> Iterable[Path]:
    return Path(os.path.realpath(path)).parents


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
