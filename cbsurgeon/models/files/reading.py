"""Check that an input file exists, is regular, readable and not empty; recognise its format; compute its digest."""

from __future__ import annotations

import ast
import hashlib
import stat
import threading
from pathlib import Path
from typing import Literal

from cbsurgeon.errors import InputFileError
from cbsurgeon.vocabulary import ENGINE_SUFFIXES

Format = Literal["zip", "pickle", "safetensors", "index"]

_HEAD = 512
_BLOCK = 1 << 20
_ENGINE = "give the model it was built from; inspect shows what was inserted in it, verify and bench run it"
_ONNX = (
    "give the model it was exported from; inspect shows what was inserted in it, and audit, verify, bench and "
    "export -o FILE.engine take it"
)
_FOREIGN = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run git lfs pull"),
    (b"<!DOCTYPE", "a web page", "download the file itself, not the page that shows it"),
    (b"<html", "a web page", "download the file itself, not the page that shows it"),
    (b"\x1f\x8b", "gzip data", "unpack it with gunzip"),
    (b"BZh", "bzip2 data", "unpack it with bunzip2"),
    (b"\xfd7zXZ", "xz data", "unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd data", "unpack it with zstd -d"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "unpack it"),
    (b"\x89HDF", "an HDF5 file", "convert it to safetensors"),
    (b"GGUF", "a GGUF file", "convert it to safetensors"),
    (b"\x93NUMPY", "a NumPy array", "give a checkpoint; arrays are inputs: --inputs FILE.npz"),
    *((magic, "a TensorRT engine", _ENGINE) for magic in (b"ftrt", b"ptrt", b"vtrt")),
)


def readable(path: Path) -> Path:
    """Return the path after checking that it is a regular, readable file that is not empty.

    Special files are refused before they are opened, because reading a pipe or a device may never end.

    Raises:
        InputFileError: missing (``CB-LOAD-01``), a folder (``CB-LOAD-02``), not a regular file (``CB-LOAD-03``), empty
            (``CB-LOAD-04``), or unreadable (``CB-LOAD-05``).
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        broken = path.is_symlink()
        raise InputFileError(
            "no such file",
            code="CB-LOAD-01",
            where=str(path),
            why="it is a link to a file that does not exist" if broken else "",
            do="check the path",
        ) from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if stat.S_ISDIR(found.st_mode):
        hugging = (path / "config.json").exists()
        raise InputFileError(
            "the model is a folder",
            code="CB-LOAD-02",
            where=str(path),
            why="a model is one file, except folders that transformers wrote",
            do=f"a transformers folder is read with: cbsurgeon inspect hf:{path}" if hugging else "name a file in it",
        )
    if not stat.S_ISREG(found.st_mode):
        raise InputFileError(
            "the model is not a regular file",
            code="CB-LOAD-03",
            where=str(path),
            why="it is a pipe, a socket or a device",
            do="copy it into a file first",
        )
    if found.st_size == 0:
        raise InputFileError(
            "the file is empty",
            code="CB-LOAD-04",
            where=str(path),
            why="it has 0 bytes",
            do="download or write it again",
        )
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise _unreadable(path, error) from error
    return path


def sniff(path: Path) -> Format:
    """Return the format of a file by its contents; the suffix only decides that it is an index.

    Raises:
        InputFileError: it has another format, which is named if it is recognised (``CB-LOAD-06``).
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if (
        head[:1] == b"\x80"
        and head[1:2] in (b"\x00", b"\x01", b"\x02", b"\x03", b"\x04", b"\x05")
        and head[8:9] != b"{"
    ):
        return "pickle"
    if path.name.endswith(".index.json"):
        return "index"
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        _refuse_foreign(path, head)
        return "safetensors"
    _refuse_foreign(path, head)
    if path.suffix.lower() == ".onnx":
        raise _no_checkpoint(path, "an ONNX file", _ONNX)
    if path.suffix.lower() in ENGINE_SUFFIXES:
        raise _no_checkpoint(path, "a TensorRT engine", _ENGINE)
    if path.suffix == ".py":
        raise _no_checkpoint(
            path, "Python code", f"name the function that makes the model: mod:{path}:{_factory(path)}"
        )
    what = "a tar archive" if head[257:262] == b"ustar" else "no format cbsurgeon reads"
    raise InputFileError(
        "the file is not a checkpoint",
        code="CB-LOAD-06",
        where=str(path),
        why=f"it is {what} (it begins with {head[:8].hex(' ')})",
        do="unpack the archive" if "tar" in what else "give a .safetensors, .pt or .pth file",
    )


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Digest:
    """The SHA-256 of a file, computed in a second thread; use it in a ``with`` statement.

    Hashing takes as long as reading, so that it takes no additional time if there is a second processor.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._value, self._stop = path, "", threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._compute, daemon=True)

    def __enter__(self) -> Digest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def result(self) -> str:
        """Wait for the digest and return it, in hexadecimal.

        Raises:
            OSError: the file could not be read to its end.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value

    def _compute(self) -> None:
        found, block = hashlib.sha256(), bytearray(_BLOCK)
        try:
            with self._path.open("rb", buffering=0) as file:
                while not self._stop.is_set() and (count := file.readinto(block)):
                    found.update(memoryview(block)[:count])
        except OSError as error:
            self._error = error
        self._value = found.hexdigest()


def stamp(path: Path) -> tuple[tuple[int, ...], ...]:
    """Return values that differ if a file is changed or replaced: device, inode, size, modification time; of shards
    too."""
    shards = path.parent.glob("[!.]*-of-*.safetensors") if path.name.endswith(".index.json") else ()
    parts = [path, *sorted(shards)]
    found = [part.stat() for part in parts]
    return tuple((each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for each in found)


def sizes(stamp: tuple[tuple[int, ...], ...]) -> int:
    """Bytes of a file and its shards together, from their :func:`stamp`."""
    return sum(part[2] for part in stamp)


def size(path: Path) -> int:
    """Return the size of a file in bytes."""
    return path.stat().st_size


def truncated(path: Path, why: str) -> InputFileError:
    """Return the error for a file that ends too early or whose parts contradict each other."""
    return InputFileError(
        "the file is damaged", code="CB-LOAD-07", where=str(path), why=why, do="download or write the file again"
    )


def _refuse_foreign(path: Path, head: bytes) -> None:
    for magic, what, do in _FOREIGN:
        if head.startswith(magic):
            raise _no_checkpoint(path, what, do)


def _no_checkpoint(path: Path, what: str, do: str) -> InputFileError:
    return InputFileError(
        "the file is not a checkpoint", code="CB-LOAD-06", where=str(path), why=f"it is {what}", do=do
    )


def _factory(path: Path) -> str:
    """The first function of a Python file that can be called without arguments, judging by its source."""
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError, RecursionError):
        return "FUNCTION"
    functions = [one for one in body if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")]
    ready = [one.name for one in functions if len(one.args.defaults) == len([*one.args.posonlyargs, *one.args.args])]
    return ready[0] if ready else "FUNCTION"


def _unreadable(path: Path, error: Exception) -> InputFileError:
    why = getattr(error, "strerror", None) or str(error)
    return InputFileError(
        "the file cannot be read", code="CB-LOAD-05", where=str(path), why=why, do="check its permissions"
    )
