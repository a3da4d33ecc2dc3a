"""``wds:PATTERN``: WebDataset shards on this machine, such as ``wds:val/shard-{000..049}.tar`` or ``wds:val/*.tar``.

Shards are read as streams, one after another; a shard is a unit, so that several processes share them. An image has one
of the usual suffixes, and its class index stands in a file ``.cls`` of the same name.
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
"""Bits of a sample's number that count within its shard."""


class Shards(Source):
    """Tar files; see the module."""

    def __init__(self, pattern: str, paths: list[Path], labelled: bool) -> None:
        self._paths = paths
        super().__init__(f"wds:{pattern}", pictures=True, labelled=labelled)

    def fingerprint(self) -> str:
        """As :meth:`Source.fingerprint`: of the sizes and times of the shards."""
        return " ".join(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in self._paths)

    def units(self, batch: int) -> int:
        """The number of shards."""
        return len(self._paths)

    def unit(self, number: int, batch: int) -> Iterator[Sample]:
        """As :meth:`Source.unit`."""
        path = self._paths[number]
        for place, entry in enumerate(_entries(path)):
            image = next((entry[suffix[1:]] for suffix in SUFFIXES if suffix[1:] in entry), None)
            if image is None:
                continue
            name = f"{path.name}/{entry['__key__']}"
            yield Sample((number << _SHIFT) + place, name, image=image, label=_label(entry, name, self.labelled))


def open_source(reference: str, how: DataOptions) -> Shards:
    """Find the shards.

    Raises:
        InputFileError: there is none, or it names something else than files of this machine (``CB-DATA-09``).
        MissingPackage: webdataset is not installed.
    """
    library = _library()
    where = f"wds:{reference}"
    if "://" in reference or reference.startswith("pipe:"):
        # The package would run what follows pipe: as a command.
        raise unreadable(where, "only files of this machine are read", "copy the shards to a folder")
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
    """The samples of one shard, in order: suffix → bytes.

    Raises:
        InputFileError: it is no tar file, or is cut off (``CB-DATA-09``).
    """
    stream = _library().WebDataset(str(path.resolve()), shardshuffle=False, empty_check=False, nodesplitter=None)
    try:
        yield from stream
    except InputFileError:
        raise
    except Exception as error:
        # The package raises what tarfile and its own handlers raise.
        raise unreadable(str(path), f"{type(error).__name__}: {' '.join(str(error).split())[:160]}") from error


def _label(entry: Mapping[str, Any], name: str, labelled: bool) -> int | None:
    if not labelled:
        return None
    try:
        return int(entry[LABEL])
    except (KeyError, ValueError) as error:
        raise unreadable(name, "it has no class index in .cls, as the first sample has") from error


def _library() -> Any:
    try:
        import webdataset
    except ImportError as error:
        raise missing("webdataset", "data", "a wds: dataset") from error
    return webdataset
