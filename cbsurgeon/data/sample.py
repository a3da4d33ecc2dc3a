"""A sample of a dataset, and the batch that a model runs on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
from torch import Tensor

from cbsurgeon.errors import UsageError

Array = numpy.ndarray[Any, Any]
Inputs = Tensor | Mapping[str, Tensor]
"""Images as one tensor, or a mapping from the names of the model's inputs to arrays."""


@dataclass(frozen=True)
class Problem:
    """A sample that was left out because it cannot be read.

    Attributes:
        name: its file, or its position in the dataset.
        reason: why it could not be read.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """One sample, not decoded yet.

    Attributes:
        index: its unique number in the dataset.
        name: its file, or its position in the dataset.
        image: an encoded image (a path or bytes), pixels, a Pillow image, or the reason why it cannot be read; ``None``
            for arrays.
        arrays: input name → array, used without preprocessing.
        label: a class index, one number per class, a map of class indices, or an encoded label map; ``None`` if the
            dataset has no labels.
    """

    index: int
    name: str
    image: Path | bytes | Array | Any = None
    arrays: Mapping[str, Array] | None = None
    label: int | Array | Path | bytes | None = None


@dataclass(frozen=True)
class Batch:
    """Samples that go through a model together.

    Attributes:
        unit: the unit of the dataset it belongs to (one process reads a unit as a whole).
        last: whether it is the last batch of its unit.
        indices: numbers of the samples in the dataset, int64 ``[batch]``.
        names: their names.
        views: the inputs, once per requested preprocessing.
        labels: class indices ``[batch]``, one number per class ``[batch, classes]`` or maps ``[batch, height, width]``;
            ``None`` if the dataset has no labels.
        problems: samples that could not be read; they are in no batch.
        notes: conversion (such as ``grey to RGB``) → number of images.
    """

    unit: int
    last: bool
    indices: Tensor
    names: tuple[str, ...]
    views: tuple[Inputs, ...]
    labels: Tensor | None = None
    problems: tuple[Problem, ...] = ()
    notes: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def inputs(self) -> Inputs:
        """The inputs with the first preprocessing."""
        return self.views[0]

    def named(self, names: Sequence[str], view: int = 0, *, where: str) -> dict[str, Tensor]:
        """Return the inputs as a mapping from a runtime's input names.

        Args:
            names: names of the runtime's inputs.
            view: index of the preprocessing.
            where: the model or the dataset, for an error.

        Raises:
            UsageError: the dataset has images but the model has other inputs too, or the dataset's arrays are not the
                model's inputs (``CB-DATA-10``).
        """
        inputs = self.views[view]
        if isinstance(inputs, Tensor):
            if len(names) == 1:
                return {names[0]: inputs}
            raise UsageError(
                "the dataset has only images, but the model has several inputs",
                code="CB-DATA-10",
                where=where,
                why=f"its inputs are {', '.join(names)}",
                do="write all inputs into an .npz file, one array per name, and labels",
            )
        if set(names) != set(inputs):
            raise UsageError(
                "the arrays of the dataset are not the model's inputs",
                code="CB-DATA-10",
                where=where,
                why=f"the model has {_listed(names)}; the dataset has {_listed(inputs)}",
                do="name the arrays as the model names its inputs; labels is the name of the labels, images that of "
                "images to be preprocessed",
            )
        return {name: inputs[name] for name in names}


def _listed(names: Iterable[str], most: int = 8) -> str:
    """Return the first names, and how many more there are."""
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
