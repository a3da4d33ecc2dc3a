"""The kinds of datasets: what a reference starts with → the file that opens it. A new kind is one file and one line."""

from __future__ import annotations

import importlib
from pathlib import Path

from cbsurgeon.data.sources.source import Source
from cbsurgeon.options import DataOptions

KINDS = {
    "folder": "cbsurgeon.data.sources.folder",
    "npz": "cbsurgeon.data.sources.npz",
    "hf": "cbsurgeon.data.sources.datasets_directory",
    "wds": "cbsurgeon.data.sources.webdataset_shards",
    "torchvision": "cbsurgeon.data.sources.torchvision_dataset",
}
"""Kind → the module whose ``open_source(reference, how)`` opens it. All but the first two are prefixes:
``hf:DIRECTORY``.
"""


def open_source(spec: str | Path, how: DataOptions) -> Source:
    """The dataset a reference names.

    Raises:
        UsageError, InputFileError: as the kind's own file.
        MissingPackage: a package that the kind needs is absent.
    """
    text = str(spec)
    prefix, colon, rest = text.partition(":")
    if colon and prefix in KINDS and prefix not in ("folder", "npz"):
        kind, reference = prefix, rest
    else:
        kind, reference = ("npz" if Path(text).suffix.lower() == ".npz" else "folder"), text
    found: Source = importlib.import_module(KINDS[kind]).open_source(reference, how)
    return found
