"""Writing a folder of results atomically."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cbsurgeon.errors import CBSurgeonError, OutputFileError
from cbsurgeon.models.files import strict_json
from cbsurgeon.report.document import LARGEST

MARK = "report.json"
"""A folder with this file, written by ``ship``, may be replaced with ``--force``."""


def check_folder(path: str | Path, *, force: bool = False, inputs: Iterable[Path] = ()) -> Path:
    """Check an output folder before long work starts.

    Args:
        path: the folder.
        force: replace one that ``ship`` wrote.
        inputs: files that the results are made from; none may be in the folder.

    Raises:
        OutputFileError: one of the inputs is in it (CB-OUT-03), it exists (CB-OUT-01), is a symbolic link (CB-OUT-02)
            or a file (CB-OUT-04), its parent does not exist (CB-OUT-05) or is not writable (CB-OUT-06), or ``ship`` did
            not write its files (CB-OUT-09).
    """
    final = Path(path)
    if final.is_symlink():
        raise _refused("the output folder is a symbolic link", "CB-OUT-02", final, do="give the folder it points to")
    if final.exists() and not final.is_dir():
        raise _refused("the output folder is a file", "CB-OUT-04", final, do="give a folder")
    if final.is_dir() and any(final.iterdir()):
        if not force:
            raise _refused(
                "the output folder exists and is not empty",
                "CB-OUT-01",
                final,
                do="give another folder, or add --force to replace it",
            )
        if not _ours(final):
            raise _refused(
                "the output folder contains other files",
                "CB-OUT-09",
                final,
                why="--force replaces a whole folder, but only one written by `ship`",
                do="give another folder",
            )
        for source in inputs:
            if final.resolve() in source.resolve().parents:
                raise _refused(
                    "the output is one of the inputs",
                    "CB-OUT-03",
                    final,
                    why=f"{source} is in it, and the folder is replaced as a whole; an input is never overwritten",
                    do="give another folder",
                )
    parent = final.absolute().parent
    if not parent.is_dir():
        raise _refused(
            "the parent of the output folder does not exist",
            "CB-OUT-05",
            final,
            why=f"{parent}",
            do=f"mkdir -p {parent}",
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise _refused(
            "the output folder cannot be created",
            "CB-OUT-06",
            final,
            why=f"{parent}: no permission",
            do="give another folder",
        )
    return final


@contextmanager
def results_folder(path: str | Path, *, force: bool = False, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield a temporary folder, and move it to the destination at the end.

    Raises:
        OutputFileError: see :func:`check_folder`. After any exception, the destination is unchanged.
    """
    final = check_folder(path, force=force, inputs=inputs)
    absolute = final.absolute()
    staged = absolute.with_name(f".{absolute.name}.{secrets.token_hex(8)}.tmp")
    try:
        staged.mkdir()
    except OSError as error:
        why = f"{absolute.parent}: {error.strerror}"
        raise _refused("the output folder cannot be made", "CB-OUT-06", final, why, "name another place") from error
    try:
        yield staged
        check_folder(final, force=force)
        _publish(staged, absolute, force)
    except CBSurgeonError as error:
        error.rename(str(staged), str(final))
        raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _publish(staged: Path, final: Path, force: bool) -> None:
    if not force or not final.exists():
        try:
            staged.rename(final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise _refused(
                "the output folder exists and is not empty",
                "CB-OUT-01",
                final,
                why="another process has written it meanwhile",
                do="name another folder",
            ) from error
        return
    if _exchanged(staged, final):
        return  # the old folder now has the temporary name, and is deleted with it
    old = staged.with_suffix(".old")
    final.rename(old)
    try:
        staged.rename(final)
    except BaseException:
        old.rename(final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange the names of two folders atomically (Linux only); return whether that succeeded.

    A process that is killed then leaves either the old folder or the new one.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    here, exchange = ctypes.c_int(-100), ctypes.c_uint(2)  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _ours(folder: Path) -> bool:
    try:
        document = strict_json.load(folder / MARK, largest=LARGEST)
    except (OSError, strict_json.NotStrictJSON):
        return False
    return isinstance(document, dict) and str(document.get("schema", "")).startswith("cbsurgeon.ship/")


def _refused(what: str, code: str, path: Path, why: str = "", do: str = "") -> OutputFileError:
    return OutputFileError(what, code=code, where=str(path), why=why, do=do)
