"""The JSON file next to an engine: what it was built from, with which tools, and whether this user built it.

An engine is machine code. A digest in the manifest proves that engine and manifest belong together, not who made them.
Therefore the manifest also carries a seal: a keyed digest (HMAC) whose key stays in this user's state folder.

An engine and its manifest cannot be replaced at once. While an engine is replaced, the manifest describes the new one
and contains that of the old one, and the digest of the engine beside it decides which of them is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cbsurgeon.deploy.onnx.file import require_file, sha256
from cbsurgeon.errors import InputFileError
from cbsurgeon.models.files import atomic, strict_json

SCHEMA = "cbsurgeon.engine/1"
_KEY_BYTES = 32
_REPLACED = "replaced"
"""The member of a manifest that contains the old engine's digest and manifest; no seal covers it."""


def beside(engine: Path) -> Path:
    """Return the path of an engine's manifest: ``m.engine`` → ``m.engine.json``."""
    return engine.with_name(engine.name + ".json")


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write a sealed manifest."""
    body = {"schema": SCHEMA, **document}
    path.write_text(_text({**body, "seal": _seal(body)}))


def bridge(new: Path, old: Path) -> None:
    """Write a manifest beside an old engine that describes it and the new one, from the manifests of both.

    Args:
        new: the engine that replaces the old one, with its manifest.
        old: the engine to be replaced, with its manifest or without one.
    """
    document = strict_json.load(beside(new))
    try:
        known = read(old)
    except InputFileError:  # damaged
        known = None
    with atomic.output(beside(old), force=True) as staged:
        staged.write_text(_text({**document, _REPLACED: {"sha256": sha256(old), "manifest": known}}))


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def read(engine: Path) -> dict[str, Any] | None:
    """Read the manifest next to an engine; ``None`` if there is none.

    Raises:
        InputFileError: it is not a manifest (CB-ENGINE-02).
    """
    path = beside(engine)
    if not path.is_file():
        return None
    try:
        document = strict_json.load(path)
    except (strict_json.NotStrictJSON, OSError) as error:
        raise _damaged(path, str(error)) from error
    _check(document, path)
    replaced = document.pop(_REPLACED, None)
    if not isinstance(replaced, dict) or not engine.is_file():
        return dict(document)
    found, old = sha256(engine), replaced.get("manifest")
    if found == _digest(document) or found != replaced.get("sha256"):
        return dict(document)
    if old is None:
        return None
    _check(old, path)
    return dict(old)


def _check(document: Any, path: Path) -> None:
    """Raise an error unless a manifest has the structure that :func:`write` gives it, as far as anything reads it."""
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise _damaged(path, f"its schema is not {SCHEMA}")
    wrong = [name for name in ("engine", "package", "model") if not isinstance(document.get(name, {}), dict)]
    if wrong:
        raise _damaged(path, f"{wrong[0]} is not an object")
    for name, member in (("engine", "sha256"), ("package", "name"), ("model", "dtype")):
        if not isinstance(document.get(name, {}).get(member), str | None):
            raise _damaged(path, f"{member} of {name} is not a text")


def _digest(document: Mapping[str, Any]) -> object:
    return document.get("engine", {}).get("sha256")


def _damaged(path: Path, why: str) -> InputFileError:
    return InputFileError(
        "the engine's manifest cannot be read",
        code="CB-ENGINE-02",
        where=str(path),
        why=why,
        do="build the engine again",
    )


def require_trusted(engine: Path, *, trust: bool = False) -> dict[str, Any]:
    """Refuse an engine unless its manifest proves that this user built it, or the user trusts it.

    Args:
        engine: the engine file.
        trust: accept an engine that was built elsewhere.

    Returns:
        The manifest; empty if there is none and ``trust`` is given.

    Raises:
        InputFileError: no such file (CB-ENGINE-03), the manifest was written for another file (CB-ENGINE-04, even with
            ``trust``), or nothing proves that this user built it here (CB-ENGINE-05).
    """
    require_file(engine, "CB-ENGINE-03")
    document = read(engine)
    if document is not None:
        wanted = _digest(document)
        found = sha256(engine)
        if found != wanted:
            raise InputFileError(
                "the engine and its manifest do not belong together",
                code="CB-ENGINE-04",
                where=str(engine),
                why=f"the engine's sha256 is {found[:16]}..., its manifest says {str(wanted)[:16]}...",
                do="build the engine again",
            )
    if trust or (document is not None and _sealed_here(document)):
        return document or {}
    raise InputFileError(
        "an engine is executable code, and nothing proves that this one was built here",
        code="CB-ENGINE-05",
        where=str(engine),
        why="it has no manifest next to it"
        if document is None
        else "its manifest was sealed by another user or machine",
        do="build it again from the ONNX file; add --trust only if you built this engine yourself elsewhere",
    )


def _sealed_here(document: Mapping[str, Any]) -> bool:
    seal = document.get("seal")
    body = {name: value for name, value in document.items() if name != "seal"}
    expected = _seal(body, create=False)
    return isinstance(seal, str) and expected is not None and hmac.compare_digest(seal.encode(), expected.encode())


def _seal(body: Mapping[str, Any], *, create: bool = True) -> str | None:
    key = _key(create)
    if key is None:
        return None
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _key(create: bool) -> bytes | None:
    """Return this user's sealing key; ``None`` if the state folder is not writable (engines then need ``--trust``)."""
    try:
        state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
        path = Path(state) / "cbsurgeon" / "engine-key"
        if create and not (path.is_file() and path.stat().st_size == _KEY_BYTES):
            _create_key(path)
        key = strict_json.head(path, _KEY_BYTES + 1)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home folder
        return None
    return key if len(key) == _KEY_BYTES else None


def _create_key(path: Path) -> None:
    """Write a key that appears complete or not at all; one that another process has written meanwhile is kept."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        if path.is_file() and path.stat().st_size != _KEY_BYTES:
            path.unlink()  # a process was killed while it wrote it
        with contextlib.suppress(FileExistsError):
            os.link(part, path)
    finally:
        part.unlink(missing_ok=True)
