"""A cache of inspections of files and registered models, stored as JSON.

An entry is used only if everything that the result depends on is unchanged:

- the contents of the file and the options,
- the source code of this package and of the library that builds the model,
- the versions of torch and Python, and the environment variables that these libraries read.

If that cannot be checked, nothing is cached. This is the case for users' own factories, folders, trusted files and
pretrained weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from cbsurgeon.options import Loading

SCHEMA = "cbsurgeon.cache/1"
SWITCH = "CBSURGEON_NO_CACHE"
"""Environment variable that switches the cache off, with any value except 0."""
MOST_ENTRIES, MOST_BYTES, LARGEST_ENTRY = 200, 64 << 20, 8 << 20
LARGEST_FILE = 4 << 30
"""Largest size in bytes of a file that is hashed; hashing a larger file would take too long."""
LIBRARIES = {"timm": ("timm",), "torchvision": ("torchvision",), "hf": ("transformers",)}
VERSIONS = ("torch", "numpy", "safetensors", "timm", "torchvision", "transformers")
VARIABLES = ("TIMM_", "TORCH", "PYTORCH_", "TRANSFORMERS_", "HF_", "CUDA_VISIBLE_DEVICES", "CBSURGEON_")
_BLOCK = 1 << 20


def folder() -> Path:
    """Return the folder of the entries (XDG base directory specification).

    Raises:
        OSError: the user has no home folder, as in some containers.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        above = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise OSError(str(error)) from error
    return above / "cbsurgeon" / "inspections"


def switched_off() -> bool:
    """Return whether the user has switched the cache off."""
    return os.environ.get(SWITCH, "0") not in ("", "0")


def key_of(reference: str, loading: Loading, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the key of the entry for a reference and its options; ``None`` if it is not cached.

    Args:
        reference, loading: the arguments of ``load``.
        environment: the environment variables at the start of the program; torch sets some of its own later.
    """
    if switched_off() or loading.trust or loading.pretrained or (loading.arch or "").startswith("mod:"):
        return None
    kind, colon, name = reference.partition(":")
    try:
        if colon and kind in LIBRARIES:
            if Path(name).exists() or (kind == "timm" and "." in name):
                return None  # a folder of transformers; weights from a cache that may change
            contents, libraries = "", list(LIBRARIES[kind])
        else:
            contents = _digest(Path(reference))
            libraries = [one for each in LIBRARIES.values() for one in each]
        facts = [
            SCHEMA, reference, contents, _options_with_digests(loading), sys.version, platform.machine(), sys.prefix,
            [(one, _version(one)) for one in VERSIONS],
            [_source(one) for one in ("cbsurgeon", *libraries)],
            sorted((name, text) for name, text in environment.items() if name.startswith(VARIABLES)),
        ]  # fmt: skip
    except (OSError, ValueError, TypeError):
        return None
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def read(key: str) -> dict[str, Any] | None:
    """Return the entry of a key; ``None`` if there is none or it is damaged."""
    try:
        path = folder() / f"{key}.json"
        if not path.is_file():  # a pipe or a device may never end
            return None
        with path.open("rb") as file:
            text = file.read(LARGEST_ENTRY + 1)
        found = json.loads(text) if len(text) <= LARGEST_ENTRY else None
        if not isinstance(found, dict) or found.get("schema") != SCHEMA or found.get("key") != key:
            return None
        if found.get("digest") != _entry_digest(found["document"], found["loaded"]):
            return None
    except (OSError, ValueError, KeyError, RecursionError):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the most recently used entries are kept
    return found


def write(key: str, document: Mapping[str, Any], loaded: Mapping[str, Any]) -> None:
    """Write an entry, and delete the oldest ones if there are too many. If the folder is not writable, do nothing."""
    from cbsurgeon.errors import CBSurgeonError
    from cbsurgeon.models.files import atomic

    digest = _entry_digest(document, loaded)
    text = json.dumps({"schema": SCHEMA, "key": key, "digest": digest, "document": document, "loaded": dict(loaded)})
    if len(text) > LARGEST_ENTRY:
        return
    with contextlib.suppress(OSError, CBSurgeonError, UnicodeEncodeError):
        place = folder()
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        with atomic.output(place / f"{key}.json", force=True) as temporary:
            temporary.write_text(text, encoding="utf-8")
        _delete_oldest(place)


def _entry_digest(document: Any, loaded: Any) -> str:
    """Return a digest of an entry, to detect damaged entries."""
    held = json.loads(json.dumps([document, loaded]))  # as it is read back, with lists in place of tuples
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode("ascii")).hexdigest()


def _delete_oldest(place: Path) -> None:
    held = sorted(((path.stat().st_mtime_ns, path) for path in place.iterdir() if path.is_file()), reverse=True)
    total = 0
    for number, (_, path) in enumerate(held):
        total += path.stat().st_size
        if number >= MOST_ENTRIES or total > MOST_BYTES:
            path.unlink(missing_ok=True)


def _options_with_digests(loading: Loading) -> dict[str, Any]:
    """Return the options, with digests of the files that they name."""
    found: dict[str, Any] = {}
    for field in fields(loading):
        value = getattr(loading, field.name)
        found[field.name] = [str(value), _digest(value)] if isinstance(value, Path) else value
    return found


def _digest(path: Path) -> str:
    """Return the SHA-256 digest of a regular file.

    Raises:
        OSError: it is not a regular file, or too large to hash.
    """
    if not path.is_file() or path.stat().st_size > LARGEST_FILE:
        raise OSError(f"{path} is not hashed")
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _source(package: str) -> str:
    """Return a digest of the names, sizes and times of a package's source files, which may be edited."""
    spec = importlib.util.find_spec(package)
    found = hashlib.sha256()
    for place in sorted(spec.submodule_search_locations or ()) if spec is not None else ():
        for path, size, changed in sorted(_sources(place)):
            found.update(f"{path}\0{size}\0{changed}\0".encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def _sources(place: str) -> Iterator[tuple[str, int, int]]:
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _sources(entry.path)
            elif entry.name.endswith(".py"):
                found = entry.stat()
                yield entry.path, found.st_size, found.st_mtime_ns
