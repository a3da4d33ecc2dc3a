"""References: the text with which a user names a model, ``kind:name`` or the path of a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cbsurgeon.errors import InputFileError, UsageError, nearest

KINDS = ("timm", "torchvision", "hf", "mod")


@dataclass(frozen=True)
class Reference:
    """A parsed reference ``kind:name``.

    Attributes:
        kind: ``timm``, ``torchvision``, ``hf`` or ``mod``.
        name: what follows the colon.
    """

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


def parse(text: str) -> Reference | Path:
    """Parse a reference: a :class:`Reference` for ``kind:name``, a path for everything else.

    Raises:
        UsageError: the text is empty, the name after the colon is missing, or the kind is not one of ours
            (``CB-REF-01``).
        InputFileError: the text is neither a reference nor an existing file (``CB-LOAD-01``).
    """
    kind, colon, name = text.partition(":")
    if kind in KINDS and colon:
        if not name.strip():
            raise UsageError(
                f"the reference {text!r} names nothing",
                code="CB-REF-01",
                where="REF",
                why=f"nothing follows {kind}:",
                do=f"write {kind}:NAME, for example {_EXAMPLES[kind]}",
            )
        return Reference(kind, name)
    if not text.strip() or "\0" in text:
        raise UsageError(
            "the model reference is empty or contains a null character",
            code="CB-REF-01",
            where="REF",
            why=f"it is {text[:80]!r}",
            do=f"name a file, or write {_USAGE}",
        )
    path = Path(text)
    if not _exists(path):
        raise _unknown(text, kind if colon else "")
    return path


def parse_builder(text: str) -> Reference:
    """Parse a reference that must be ``kind:name``, as in ``--arch`` and checkpoint metadata.

    Raises:
        UsageError: it is a file or anything else (``CB-REF-01``).
    """
    kind, colon, name = text.partition(":")
    if kind in KINDS and colon and name.strip():
        return Reference(kind, name)
    raise UsageError(
        f"{text!r} does not name an architecture",
        code="CB-REF-01",
        where="--arch",
        why="it has no kind and name with a colon between them",
        do=f"write {_USAGE}",
    )


def unknown_name(reference: Reference, known: Iterable[str], where: str) -> UsageError:
    """Return the error for a name that a library does not have, with the nearest names."""
    near = nearest(reference.name, known)
    return UsageError(
        f"{where} has no model named {reference.name!r}",
        code="CB-REF-02",
        where=str(reference),
        why=f"the nearest names are {', '.join(near)}" if near else "no known name is similar",
        do=f"did you mean {reference.kind}:{near[0]}?" if near else f"list the names {where} knows, or write {_USAGE}",
    )


_EXAMPLES = {
    "timm": "timm:deit_small_patch16_224",
    "torchvision": "torchvision:vit_b_16",
    "hf": "hf:ViTForImageClassification",
    "mod": "mod:my_package.my_module:my_factory",
}
_USAGE = (
    "timm:NAME, torchvision:NAME, hf:CLASS, hf:DIRECTORY, mod:package.module:factory or mod:path/to/file.py:factory"
)


def _exists(path: Path) -> bool:
    try:
        return path.is_symlink() or path.exists()
    except OSError:
        return False


def _unknown(text: str, kind: str) -> UsageError | InputFileError:
    near = nearest(kind, KINDS) if kind else []
    if near:
        return UsageError(
            f"unknown kind of reference {kind!r}",
            code="CB-REF-01",
            where=text,
            why=f"the nearest kind is {near[0]!r}",
            do=f"write {_USAGE}, or the path of a file",
        )
    return InputFileError(
        "no such file",
        code="CB-LOAD-01",
        where=text,
        why="it is also not of the form kind:name",
        do=f"check the path, or name a builder: {_USAGE}",
    )
