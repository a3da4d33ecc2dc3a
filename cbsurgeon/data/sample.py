"""One sample as a dataset gives it, and the batch a model gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
from torch import Tensor

from cbsurgeon.errors import UsageError

Array = numpy.ndarray[Any, Any]
Inputs = Tensor | Mapping[str, Tensor]
"""Images as one tensor, or arrays by the names of the model's inputs."""


@dataclass(frozen=True)
class Problem:
    """A sample that was left out.

    Attributes:
        name: the file, or its place in the dataset.
        reason: why it could not be read.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """One sample, not decoded yet.

    Attributes:
        index: its number in the dataset; no two samples share one.
        name: its file, or its place in the dataset.
        image: an encoded image (a path or bytes), pixels, or a Pillow image; ``None`` for arrays.
        arrays: input name → array, taken as they are.
        label: a class index, one number a class, a map of class indices, or an encoded label map; ``None`` without.
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
        unit: the piece of the dataset it belongs to (one process reads a piece as a whole).
        last: it is the last batch of its piece.
        indices: numbers of the samples in the dataset, int64 ``[batch]``.
        names: their names.
        views: the inputs, once for each preprocessing that was asked for.
        labels: class indices ``[batch]``, numbers a class ``[batch, classes]`` or maps ``[batch, height, width]``;
            ``None`` where the dataset has none.
        problems: samples that could not be read; they are in no batch.
        notes: what was done to images beside the preprocessing → number of images.
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
        """The inputs in the first preprocessing."""
        return self.views[0]

    def named(self, names: Sequence[str], view: int = 0) -> dict[str, Tensor]:
        """The inputs by the names a runtime gives them.

        Args:
            names: of the runtime's inputs.
            view: number of the preprocessing.

        Raises:
            UsageError: the dataset has images and the model takes more than images, or it has other arrays than the
                model takes (``CB-DATA-10``).
        """
        inputs = self.views[view]
        if isinstance(inputs, Tensor):
            if len(names) == 1:
                return {names[0]: inputs}
            raise UsageError(
                "the dataset has images and the model takes more than that",
                code="CB-DATA-10",
                why=f"its inputs are {', '.join(names)}",
                do="write all inputs into an .npz file, one array for each name, and labels",
            )
        if set(names) != set(inputs):
            raise UsageError(
                "the arrays of the dataset are not the model's inputs",
                code="CB-DATA-10",
                why=f"it takes {', '.join(names)}; the dataset has {', '.join(inputs)}",
                do="name the arrays as the model names its inputs (an array called images is preprocessed)",
            )
        return {name: inputs[name] for name in names}
