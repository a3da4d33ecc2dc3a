"""Write files atomically: they appear complete or not at all.

Every output is written under a temporary name in its final folder, synced, optionally checked by the writer, and then
renamed. A reader sees the old file or the new one, also after a loss of power. After ``kill -9`` a temporary file
(``.NAME.<hex>.tmp.SUFFIX``) may remain, but the final name never holds an incomplete file.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cbsurgeon.errors import CBSurgeonError, OutputFileError

_LONGEST_STEM = 40
_LONGEST_REASON = 200
_FULL_BELOW = 1 << 16  # bytes
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up", errno.EFBIG: "the file is too large"}


@contextmanager
def output(path: str | Path, *, force: bool = False, inputs: Iterable[str | Path] = ()) -> Iterator[Path]:
    """Write one file atomically: yields a temporary path in the same folder, renames it on success.

    The caller writes to the yielded path, and may read it back and raise to reject it. On any exception,
    ``KeyboardInterrupt`` included, the temporary file is removed and the destination is unchanged.

    Args:
        path: the final name. It must not be a symlink, a folder or one of ``inputs``.
        force: replace an existing regular file.
        inputs: files the result was made from; none may be the destination, under any name.

    Raises:
        OutputFileError: the destination exists (``CB-OUT-01``), is a symlink (``CB-OUT-02``), is an input
            (``CB-OUT-03``), is not a regular file (``CB-OUT-04``), its folder is missing (``CB-OUT-05``) or cannot
            be written (``CB-OUT-06``), or the disk is full (``CB-OUT-07``).
    """
    final = check(path, force=force, inputs=inputs)
    temporary = _create(final)
    mode = stat.S_IMODE(temporary.stat().st_mode)
    try:
        with _named(final, temporary):
            yield temporary
            _require_regular(temporary, final)
            temporary.chmod(mode)  # a writer may have replaced the file with a private one of its own
            _sync(temporary)
            _publish(temporary, final, force)
            _sync(final.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def bundle(
    path: str | Path,
    *,
    force: bool = False,
    inputs: Iterable[str | Path] = (),
    companions: Iterable[str] = (),
    bridge: Callable[[Path, Path], object] | None = None,
) -> Iterator[Path]:
    """Write a file and its companions (such as ``m.onnx`` and ``m.onnx.data``), the main file last.

    Yields the main file's path in a temporary folder beside the destination, with its final *name*, because such files
    refer to each other by name. On success every companion is moved into place, and then the main file, so that the
    companions are there whenever the main file is. Where companions are replaced, the old main file is removed first: a
    process killed in between leaves no main file, rather than an old one that reads new companions. With a ``bridge``
    the old main file stays until the new one replaces it. Two processes that write into one folder publish in turn.

    Args:
        path: the final name of the main file.
        force: replace existing regular files.
        inputs: files the result was made from.
        companions: names the writer may create next to the main file; any other file is an error.
        bridge: called with the new and the old main file before the old one is replaced. It turns the companions of the
            old file into ones that fit both files; those of the new file replace them afterwards.

    Raises:
        OutputFileError: as :func:`output`; a file that was not announced (``CB-OUT-08``).
    """
    sources = tuple(inputs)
    final = check(path, force=force, inputs=sources)
    names = [*companions, final.name]
    for name in names[:-1]:
        check(final.parent / name, force=force, inputs=sources)
    folder = _create(final, folder=True)
    try:
        with _named(final, folder / final.name):
            yield folder / final.name
            written = {entry.name for entry in folder.iterdir()}
            if final.name not in written or not written <= set(names):
                raise OutputFileError(
                    "a library did not write the files it should",
                    code="CB-OUT-08",
                    where=str(final),
                    why=f"expected {sorted(names)}, found {sorted(written)}",
                    do="run it again; if it stays, update the package that writes this format",
                )
            made = [name for name in names if name in written]
            for name in made:  # before anything is replaced, so that little time passes without a main file
                _require_regular(folder / name, final)
                _sync(folder / name)
            with _in_turn(final.parent):
                if bridge is not None and force and _lstat(final) is not None:
                    bridge(folder / final.name, final)
                    _sync(final.parent)
                    made.reverse()
                elif any(_lstat(final.parent / name) is not None for name in written - {final.name}):
                    final.unlink(missing_ok=True)  # an old main file beside new companions would be read as one model
                for name in made:
                    _publish(folder / name, final.parent / name, force)
            _sync(final.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check(path: str | Path, *, force: bool = False, inputs: Iterable[str | Path] = ()) -> Path:
    """Do only the checks of :func:`output`, so that a long job can fail before it starts.

    Returns:
        the destination as a :class:`~pathlib.Path`.

    Raises:
        OutputFileError: as :func:`output`.
    """
    final = Path(path)
    if "\0" in str(final) or final.name in ("", ".", ".."):
        raise _refusal(
            "the output has no file name",
            "CB-OUT-04",
            final,
            why="the path is empty, a folder or contains a null character",
            do="name a file",
        )
    found = _lstat(final)
    if found is not None:
        _check_existing(final, found, force, inputs)
    parent = final.parent
    if not parent.is_dir():
        raise _refusal(
            "the output folder does not exist",
            "CB-OUT-05",
            final,
            why=f"{parent} is not a folder",
            do="name another folder" if os.path.lexists(parent) else f"mkdir -p {parent}",
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise _unwritable(final, "no permission")
    return final


def _check_existing(final: Path, found: os.stat_result, force: bool, inputs: Iterable[str | Path]) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise _refusal(
            "the output is a symbolic link",
            "CB-OUT-02",
            final,
            why=f"it points to {final.readlink()}; a link is never written through",
            do="name the file it points to, or remove the link",
        )
    if stat.S_ISDIR(found.st_mode):
        raise _refusal(
            "the output is a folder", "CB-OUT-04", final, why="a file cannot replace it", do="name a file inside it"
        )
    if not stat.S_ISREG(found.st_mode):
        raise _refusal(
            "the output is not a regular file",
            "CB-OUT-04",
            final,
            why="it is a pipe, a socket or a device",
            do="name a regular file",
        )
    for source in inputs:
        with suppress(OSError):
            known = Path(source).stat()
            if (known.st_dev, known.st_ino) == (found.st_dev, found.st_ino):
                raise _refusal(
                    "the output is one of the inputs",
                    "CB-OUT-03",
                    final,
                    why=f"it is the same file as {source}; an input is never overwritten",
                    do="name another file",
                )
    if not force:
        raise _exists(final)


def _create(final: Path, folder: bool = False) -> Path:
    """A new empty file (or folder) beside ``final``, with the permissions the user's umask gives."""
    suffix = "".join(final.suffixes[-1:])
    temporary = final.parent / f".{final.name[:_LONGEST_STEM]}.{secrets.token_hex(8)}.tmp{suffix[:_LONGEST_STEM]}"
    try:
        if folder:
            temporary.mkdir()
        else:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
    except OSError as error:
        raise _unwritable(final, error.strerror or str(error)) from error
    return temporary


def _publish(temporary: Path, final: Path, force: bool) -> None:
    if not force:
        try:
            os.link(temporary, final, follow_symlinks=False)
            return
        except FileExistsError as error:
            raise _exists(final) from error
        except OSError:
            # A file system without hard links: check and rename, the best it can do.
            if _lstat(final) is not None:
                raise _exists(final) from None
    temporary.replace(final)


@contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process; do nothing where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _require_regular(temporary: Path, final: Path) -> None:
    found = _lstat(temporary)
    if found is None or not stat.S_ISREG(found.st_mode):
        raise _refusal(
            "a library did not write the file it should",
            "CB-OUT-08",
            final,
            why=f"{temporary.name} does not exist or is not a regular file",
            do="run it again; if it stays, update the package that writes this format",
        )


def _sync(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _named(final: Path, temporary: Path) -> Iterator[None]:
    """Raise errors of a writer with the requested file name instead of the temporary one."""
    try:
        yield
    except CBSurgeonError as error:
        error.rename(str(temporary), str(final))
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise unfinished(final, _FULL[error.errno]) from error
        if str(temporary) in f"{error.filename} {error}":
            raise unfinished(final, error.strerror or str(error), temporary) from error
        raise


def unfinished(final: Path, why: str, temporary: Path | None = None) -> OutputFileError:
    """The error for an output whose writing began and failed (``CB-OUT-07``).

    A writer may report a full disk in its own words; the space that is left shows it.

    Args:
        final: the name that was asked for.
        why: what the writer said; the ``temporary`` path in it is replaced by the final one.
        temporary: where it was written.
    """
    if temporary is not None:
        with suppress(OSError):
            why = _FULL[errno.ENOSPC] if shutil.disk_usage(temporary.parent).free < _FULL_BELOW else why
        why = why.replace(str(temporary), str(final)).replace(temporary.name, final.name)
    return _refusal(
        "the output could not be written",
        "CB-OUT-07",
        final,
        why=why[:_LONGEST_REASON],
        do="free some space, or name another folder",
    )


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error


def _exists(final: Path) -> OutputFileError:
    return _refusal(
        "the output exists",
        "CB-OUT-01",
        final,
        why="an existing file is not replaced unless you say so",
        do="name another file, or pass --force to replace it",
    )


def _unwritable(final: Path, why: str) -> OutputFileError:
    return _refusal(
        "the output cannot be written",
        "CB-OUT-06",
        final,
        why=f"{final.parent}: {why}",
        do="name a folder you can write to",
    )


def _refusal(what: str, code: str, final: Path, *, why: str, do: str) -> OutputFileError:
    return OutputFileError(what, code=code, where=str(final), why=why, do=do)
