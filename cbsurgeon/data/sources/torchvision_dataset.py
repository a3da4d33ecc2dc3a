"""``torchvision:NAME:ROOT``: a torchvision dataset whose files are already on this machine.

If the dataset has splits, the one for testing is used: ``train=False``, or the split ``val`` or ``test``.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from cbsurgeon.data.decoding import Unreadable
from cbsurgeon.data.sample import Sample
from cbsurgeon.data.sources.refusals import class_index, unreadable
from cbsurgeon.data.sources.source import Indexed
from cbsurgeon.errors import UsageError, did_you_mean, missing
from cbsurgeon.options import DataOptions

SPLITS = ("val", "test")
UNSAFE = ("LSUN", "LSUNClass")
"""Datasets that read a pickle from their folder without checking it; a pickle can run any code."""


class Pairs(Indexed):
    """A dataset whose items are pairs of an image and a class index."""

    def __init__(self, where: str, dataset: Any, classes: tuple[str, ...]) -> None:
        self._dataset = dataset
        super().__init__(where, pictures=True, labelled=True, classes=classes, count=len(dataset))

    def sample(self, index: int) -> Sample:
        """See :meth:`Indexed.sample`."""
        name = f"item {index}"
        try:
            image, label = self._dataset[index]
        except Exception as error:
            # Each dataset class opens its images in its own way.
            return Sample(
                index, name, image=Unreadable(f"{type(error).__name__}: {' '.join(str(error).split())[:120]}")
            )
        return Sample(index, name, image=image, label=class_index(label, f"{self.spec}: {name}"))


def open_source(reference: str, how: DataOptions) -> Pairs:
    """Open the dataset; nothing is downloaded.

    Raises:
        UsageError: torchvision has no such dataset (``CB-DATA-15``).
        InputFileError: its files are missing, or its items are not images with one class (``CB-DATA-09``).
        MissingPackage: torchvision is not installed.
    """
    try:
        import torchvision.datasets as library
    except ImportError as error:
        raise missing("torchvision", "eval", "a torchvision: dataset") from error
    name, _, root = reference.partition(":")
    where = f"torchvision:{reference}"
    found = getattr(library, name, None) if name in library.__all__ else None
    if found is None or not root:
        raise UsageError(
            f"torchvision has no dataset {name!r}" if found is None else "the folder of the dataset is not given",
            code="CB-DATA-15",
            where=where,
            why="a torchvision dataset is named by its class and the folder it is stored in",
            do=(did_you_mean(name, library.__all__) if found is None else "") or "torchvision:NAME:ROOT",
        )
    if name in UNSAFE:
        raise unreadable(
            where, "torchvision reads its list of images with pickle, which can run code", "copy the images"
        )
    dataset, why = None, ""
    for arguments in _arguments(found):
        try:
            dataset = found(str(Path(root)), **arguments)
            break
        except Exception as error:
            # Each dataset class raises errors of its own for missing files.
            why = why or f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    if dataset is None:
        raise unreadable(where, why, f"put the files of {name} into {root}; nothing is downloaded")
    try:
        image, label = dataset[0]
        int(label)
    except Exception as error:
        raise unreadable(where, f"its items are not images with one class index: {error}") from error
    if not hasattr(image, "convert"):
        raise unreadable(where, f"its items are {type(image).__name__}, not images")
    return Pairs(where, dataset, tuple(str(one) for one in getattr(dataset, "classes", ())))


def _arguments(kind: Any) -> list[dict[str, Any]]:
    """Return the keyword arguments to try, in order."""
    parameters = inspect.signature(kind).parameters
    if "train" in parameters:
        return [{"train": False}]
    return [{"split": split} for split in SPLITS] if "split" in parameters else [{}]
