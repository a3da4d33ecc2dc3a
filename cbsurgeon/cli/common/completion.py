"""Shell completion of references in bash, zsh and fish: kinds, model names of installed libraries, files.

Shells start the program with ``_CBSURGEON_COMPLETE`` set, and click prints the completions. This file adds the
completion of references.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

KINDS = ("timm:", "torchvision:", "hf:", "mod:")
LISTED = {"timm": "timm", "torchvision": "torchvision.models"}
"""Library that lists its model names → the module with the list."""


def references(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Return the completions of an incomplete reference."""
    kind, colon, begun = incomplete.partition(":")
    if colon and kind in LISTED:
        return [CompletionItem(f"{kind}:{name}") for name in _names(kind) if name.startswith(begun)]
    if colon:
        return []
    kinds = [CompletionItem(each) for each in KINDS if each.startswith(incomplete)]
    return [*kinds, CompletionItem(incomplete, type="file")] if not kinds or not incomplete else kinds


def _names(library: str) -> list[str]:
    """Return the model names of an installed library, from a cached file because importing it takes seconds."""
    import importlib.metadata

    from cbsurgeon.cli.common import cache

    try:
        version = importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return []
    try:
        place = cache.folder().with_name(f"names-{library}-{version}.json")
    except OSError:  # a user without a home folder
        place = Path(os.devnull)
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(place.read_bytes())
        if isinstance(kept, list) and all(isinstance(name, str) for name in kept):
            return kept
    found: list[str] = importlib.import_module(LISTED[library]).list_models()
    if not cache.switched_off() and place.name != Path(os.devnull).name:
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            part = place.with_suffix(f".{os.getpid()}")
            part.write_text(json.dumps(found))
            part.replace(place)
    return found


class Bash(BashComplete):
    """Completion for bash, which splits words at the colons in references; this class joins them again."""

    name = "bash"

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the complete words, and the incomplete one."""
        words, at = split_arg_string(os.environ["COMP_WORDS"]), int(os.environ["COMP_CWORD"])
        joined: list[str] = []
        for word in words[1 : at + 1]:
            if joined and (word == ":" or joined[-1].endswith(":")):
                joined[-1] += word
            else:
                joined.append(word)
        if at >= len(words):
            return joined, ""
        self.typed = joined[-1]
        return joined[:-1], joined[-1]

    typed = ""

    def format_completion(self, item: CompletionItem[str]) -> str:
        """Return a completion as bash expects it: only the part after the last typed colon."""
        prefix = self.typed.rpartition(":")[0]
        value = item.value.removeprefix(f"{prefix}:") if prefix else item.value
        return f"{item.type},{value}"


def register() -> None:
    """Register :class:`Bash` with click."""
    add_completion_class(Bash, "bash")
