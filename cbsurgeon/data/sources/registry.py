"""The table of dataset kinds, by the prefix of a reference. A new kind is one file and one line here."""

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
"""Kind → the module whose ``open_source(reference, how)`` opens it. All but the first two are prefixes of a reference,
such as ``hf:DIRECTORY``.
"""


def open_source(spec: str | Path, how: DataOptions) -> Source:
    """Open the dataset that a reference names.

    Raises:
        UsageError, InputFileError: as ``open_source`` of the kind's module.
        MissingPackage: a package that the kind needs is not installed.
    """
    text = str(spec)
    prefix, colon, rest = text.partition(":")
    if colon and prefix in KINDS and prefix not in ("folder", "npz"):
        kind, reference = prefix, rest
    else:
        kind, reference = ("npz" if Path(text).suffix.lower() == ".npz" else "folder"), text
    found: Source = importlib.import_module(KINDS[kind]).open_source(reference, how)
    return found
