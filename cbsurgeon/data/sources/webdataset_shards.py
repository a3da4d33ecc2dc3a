"""``wds:PATTERN``: WebDataset shards on this machine, such as ``wds:val/shard-{000..049}.tar`` or ``wds:val/*.tar``.

Shards are read as streams. A shard is a unit, so that several processes can share the shards. An image has one of the
usual suffixes; its class index is in a file of the same name with the suffix ``.cls``.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import lzma
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cbsurgeon.data.decoding import MOST_BYTES, SUFFIXES
from cbsurgeon.data.sample import Sample
from cbsurgeon.data.sources.refusals import class_index, unreadable
from cbsurgeon.data.sources.source import Source
from cbsurgeon.errors import InputFileError, missing
from cbsurgeon.options import DataOptions

LABEL = "cls"
MOST_NAMES = 1_000_000
"""Largest number of shards that braces may stand for."""
_METADATA = re.compile(r"__[^/]*__($|/)")
"""Names that webdataset skips."""
_LARGEST_HEADER = 1 << 20
"""Largest size in bytes of a long name, or of another header that ``tarfile`` reads into memory."""
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_LARGEST_RATIO, _SMALL = 100, 1 << 24
"""A compressed shard may unpack to this multiple of its size, plus this number of bytes."""
_SHIFT = 32
"""Bits of a sample's index that number it within its shard; the bits above are the shard's number."""


class Shards(Source):
    """A list of tar files; see the module's docstring."""

    def __init__(self, pattern: str, paths: list[Path], labelled: bool) -> None:
        self._paths = paths
        super().__init__(f"wds:{pattern}", pictures=True, labelled=labelled)

    def fingerprint(self) -> str:
        """See :meth:`Source.fingerprint`; computed from the shards' sizes and modification times."""
        return " ".join(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in self._paths)

    def units(self, batch: int) -> int:
        """Return the number of shards."""
        return len(self._paths)

    def unit(self, number: int, batch: int) -> Iterator[Sample]:
        """See :meth:`Source.unit`."""
        path = self._paths[number]
        for position, entry in enumerate(_entries(path)):
            image = next((entry[suffix[1:]] for suffix in SUFFIXES if suffix[1:] in entry), None)
            if image is None:
                continue
            name = f"{path.name}/{entry['__key__']}"
            yield Sample((number << _SHIFT) + position, name, image=image, label=_label(entry, name, self.labelled))


def open_source(reference: str, how: DataOptions) -> Shards:
    """Find the shards.

    Raises:
        InputFileError: there are none, or the reference is a URL or a command (``CB-DATA-09``).
        MissingPackage: webdataset is not installed.
    """
    library = _library()
    where = f"wds:{reference}"
    if "://" in reference or reference.startswith("pipe:"):
        # webdataset would run the text after pipe: as a command.
        raise unreadable(where, "only files on this machine are read", "copy the shards to a folder")
    if _expansions(reference) > MOST_NAMES:
        raise unreadable(where, f"the braces stand for more than {MOST_NAMES} names", "wds:val/*.tar")
    try:
        patterns = library.shardlists.expand_urls(reference)
    except Exception as error:
        # braceexpand raises errors of its own, such as for a brace that is not closed.
        raise unreadable(where, f"{type(error).__name__}: {str(error)[:160]}", "wds:val/*.tar") from error
    names = [
        name
        for pattern in patterns
        for name in (sorted(glob.glob(pattern)) or [pattern])  # noqa: PTH207 - a pattern may begin with /
    ]
    paths = [Path(name) for name in names]
    absent = [str(path) for path in paths if not path.is_file()]
    if absent or not paths:
        raise unreadable(where, f"there is no file {absent[0]}" if absent else "nothing matches", "wds:val/*.tar")
    first = next(iter(_entries(paths[0])), None)
    if first is None:
        raise unreadable(where, f"{paths[0]} has no sample")
    return Shards(reference, paths, LABEL in first)


def _expansions(pattern: str) -> int:
    """Return an upper bound of the number of names that the braces of a pattern stand for."""
    found = 1
    for inner in re.findall(r"\{([^{}]*)\}", pattern):
        ends = re.fullmatch(r"(-?\d{1,18})\.\.(-?\d{1,18})(\.\.-?\d+)?", inner)
        numbers = abs(int(ends[2]) - int(ends[1])) + 1 if ends else 26
        if re.search(r"\d{19}", inner):
            numbers = MOST_NAMES + 1
        found *= max(numbers if ".." in inner else 1, inner.count(",") + 1)
    return found


def _entries(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the samples of one shard, in order, as mappings from suffix to bytes.

    Raises:
        InputFileError: it is not a tar file, is truncated, or has a file that is too large (``CB-DATA-09``).
    """
    try:
        yield from _library().tariterators.group_by_keys(_files(path))
    except InputFileError:
        raise
    except Exception as error:
        # tarfile, the decompressors and webdataset raise errors of their own.
        raise unreadable(str(path), f"{type(error).__name__}: {' '.join(str(error).split())[:160]}") from error


def _files(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the regular files of a shard as webdataset does, with a limit on the memory that they take."""
    with _unpacked(path) as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as archive:  # type: ignore[call-overload]
        for member in archive:
            if not member.isreg() or _METADATA.match(member.name):
                continue
            held = archive.extractfile(member)
            assert held is not None
            yield {"fname": member.name, "data": held.read(), "__url__": str(path)}
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps the headers otherwise
    yield {}


class _Member(tarfile.TarInfo):
    """A member of a tar file whose size is limited."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:
        """Read the next header. A damaged one is an error; ``tarfile`` would take it for the end of the archive."""
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"a header is damaged: {error}") from error

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """Read the member's header; ``tarfile`` calls this method for each, and reads some headers into memory."""
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.TarError(f"{self.name[:80]!r} is a sparse file")
        if self.size > (MOST_BYTES if self.isreg() else _LARGEST_HEADER):
            raise tarfile.TarError(f"{self.name[:80]!r} has {self.size} bytes, at most {MOST_BYTES} are read")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        if found.sparse is not None or found.size > MOST_BYTES:  # type: ignore[attr-defined]
            raise tarfile.TarError(f"{found.name[:80]!r} is a sparse file, or larger than {MOST_BYTES} bytes")
        return found


@contextmanager
def _unpacked(path: Path) -> Iterator[Any]:
    """Open a shard, and decompress it if it is compressed.

    Raises:
        InputFileError: it unpacks to far more than its own size (``CB-DATA-09``).
    """
    with path.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        opener = next((kind for start, kind in _COMPRESSED.items() if magic.startswith(start)), None)
        if opener is None:
            yield file
            return
        with opener(file) as stream:  # type: ignore[operator]
            yield _Limited(stream, _LARGEST_RATIO * path.stat().st_size + _SMALL, path)


class _Limited:
    """A stream of which only a number of bytes is read."""

    def __init__(self, stream: Any, most: int, path: Path) -> None:
        self._stream, self._left, self._path = stream, most, path

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        found: bytes = self._stream.read(size)
        self._left -= len(found)
        if self._left < 0:
            raise unreadable(str(self._path), f"it unpacks to more than {_LARGEST_RATIO} times its size")
        return found


def _label(entry: Mapping[str, Any], name: str, labelled: bool) -> int | None:
    why = "it has no class index in a .cls file, unlike the first sample"
    return class_index((entry.get(LABEL) or b"").strip() or None, name, why) if labelled else None


def _library() -> Any:
    try:
        import webdataset
    except ImportError as error:
        raise missing("webdataset", "data", "a wds: dataset") from error
    return webdataset
