"""``wds:PATTERN``: WebDataset shards on this machine, such as ``wds:val/shard-{000..049}.tar`` or ``wds:val/*.tar``.

Shards are read as streams. A shard is a unit, so that several processes can share the shards. An image has one of the
usual suffixes; its class index is in a file of the same name with the suffix ``.cls``.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cbsurgeon.data.decoding import SUFFIXES
from cbsurgeon.data.sample import Sample
from cbsurgeon.data.sources.refusals import unreadable
from cbsurgeon.data.sources.source import Source
from cbsurgeon.errors import InputFileError, missing
from cbsurgeon.options import DataOptions

LABEL = "cls"
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
    names = [
        name
        for pattern in library.shardlists.expand_urls(reference)
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


def _entries(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the samples of one shard, in order, as mappings from suffix to bytes.

    Raises:
        InputFileError: it is not a tar file, or is truncated (``CB-DATA-09``).
    """
    stream = _library().WebDataset(str(path.resolve()), shardshuffle=False, empty_check=False, nodesplitter=None)
    try:
        yield from stream
    except InputFileError:
        raise
    except Exception as error:
        # webdataset raises errors of tarfile and of its own handlers.
        raise unreadable(str(path), f"{type(error).__name__}: {' '.join(str(error).split())[:160]}") from error


def _label(entry: Mapping[str, Any], name: str, labelled: bool) -> int | None:
    if not labelled:
        return None
    try:
        return int(entry[LABEL])
    except (KeyError, ValueError) as error:
        raise unreadable(name, "it has no class index in a .cls file, unlike the first sample") from error


def _library() -> Any:
    try:
        import webdataset
    except ImportError as error:
        raise missing("webdataset", "data", "a wds: dataset") from error
    return webdataset
