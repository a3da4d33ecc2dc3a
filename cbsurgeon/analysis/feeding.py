"""The batches of an analysis: from a dataset, tensors, an iterable of batches, or a few photographs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy
import torch
from torch import Tensor

from cbsurgeon.checks import memory
from cbsurgeon.data import Data, Indexed, Sample, Source, open_data
from cbsurgeon.errors import UsageError, missing
from cbsurgeon.graph import Program
from cbsurgeon.models import Preprocessing
from cbsurgeon.options import DataOptions

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "camera", "coins", "cell", "moon")
"""Photographs that are part of scikit-image."""


@dataclass(frozen=True)
class Fed:
    """A batch with the inputs of each model.

    Attributes:
        indices: indices of the samples in the dataset.
        names: their names.
        views: the inputs of each model.
    """

    indices: list[int]
    names: tuple[str, ...]
    views: tuple[Any, ...]


class Feed(Protocol):
    """An iterable of batches of this process's share, with remarks."""

    name: str
    span: int | None
    """Number of samples that :attr:`Fed.indices` counts; ``None`` if unknown."""

    def __iter__(self) -> Iterator[Fed]: ...

    def remarks(self) -> tuple[str, ...]:
        """Return facts that the user should know, after the batches were read."""
        ...

    def require_memory(self, programs: Sequence[Program], limit: int | None) -> None:
        """Refuse batches for which a program needs more memory than there is (CB-RUN-14)."""
        ...


class Photographs(Indexed):
    """The photographs of scikit-image as a dataset."""

    def __init__(self) -> None:
        try:
            from skimage import data
        except ImportError as error:
            raise missing("scikit-image", "analyze", "analysing without --data") from error
        self._read = data
        super().__init__("photographs of scikit-image", pictures=True, labelled=False, count=len(PHOTOGRAPHS))

    def sample(self, index: int) -> Sample:
        """Return one photograph as pixels."""
        pixels = getattr(self._read, PHOTOGRAPHS[index])()
        return Sample(index, PHOTOGRAPHS[index], image=numpy.ascontiguousarray(pixels))


@dataclass
class Dataset:
    """Batches of a dataset, with each model's own preprocessing."""

    data: Data
    view_of: tuple[int, ...]
    names: tuple[tuple[str, ...], ...]
    name: str = field(init=False)
    span: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.name, self.span = self.data.source.spec, self.data.source.span

    def __iter__(self) -> Iterator[Fed]:
        for batch in self.data:
            if len(batch):
                pairs = zip(self.names, self.view_of, strict=True)
                views = tuple(batch.named(names, view, where=self.name) for names, view in pairs)
                yield Fed(batch.indices.tolist(), batch.names, views)

    def remarks(self) -> tuple[str, ...]:
        """Return remarks about unreadable samples and conversions."""
        lost = [f"{one.name} was left out: {one.reason}" for one in self.data.problems]
        done = [f"{what}: {count} images" for what, count in self.data.notes.items()]
        return (*self.data.source.remarks, *lost, *done)

    def require_memory(self, programs: Sequence[Program], limit: int | None) -> None:
        """See :class:`Feed`."""
        memory.require_dataset(programs, self.view_of, self.data, limit)


@dataclass
class Given:
    """Batches given by the caller as tensors or as an iterable."""

    batches: Iterable[Any]
    models: int
    share: tuple[int, int]
    name: str = "given batches"
    span: int | None = None

    def __iter__(self) -> Iterator[Fed]:
        start = 0
        for number, batch in enumerate(self.batches):
            inputs = batch[0] if isinstance(batch, list | tuple) else batch
            first = inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))
            count = len(first)
            if number % self.share[1] == self.share[0]:
                indices = list(range(start, start + count))
                yield Fed(indices, tuple(f"[{index}]" for index in indices), (inputs,) * self.models)
            start += count

    def remarks(self) -> tuple[str, ...]:
        """Return no remarks."""
        return ()

    def require_memory(self, programs: Sequence[Program], limit: int | None) -> None:
        """Refuse tensors that are too large; the batches of an iterable are not known before they are read."""
        first = self.batches[0] if isinstance(self.batches, list | tuple) and self.batches else None
        tensors = [first] if isinstance(first, Tensor) else list(first.values()) if isinstance(first, Mapping) else []
        if tensors:
            shapes = [[tuple(torch.as_tensor(tensor).shape[1:]) for tensor in tensors]] * len(programs)
            memory.require_reading(programs, shapes, len(tensors[0]), len(tensors[0]), sets=0, limit=limit)


def feed(
    data: Any,
    inputs: Sequence[tuple[str, ...]],
    stated: Sequence[Preprocessing | None],
    reading: DataOptions,
    share: tuple[int, int],
) -> Feed:
    """Open the caller's data.

    Args:
        data: a dataset (its reference, or an opened source), a tensor, tensors by input name, an iterable of batches,
            or ``None`` for the photographs that scikit-image ships.
        inputs: names of each model's inputs.
        stated: each model's preprocessing.
        reading: how a dataset is read.
        share: rank of this process and number of processes.

    Raises:
        UsageError: no data for a model whose input is not an image (CB-ANALYZE-02), or data of an unsupported type
            (CB-ANALYZE-03).
        CBSurgeonError: the dataset cannot be opened.
    """
    if data is None:
        if any(len(names) != 1 for names in inputs) or not any(stated):
            raise _no_data(inputs)
        data = Photographs()
    if isinstance(data, str | Path | Source):
        return _dataset(data, inputs, stated, reading, share)
    if isinstance(data, Tensor):
        return Given(torch.split(data, reading.batch), len(inputs), share)
    if isinstance(data, Mapping):
        return Given(list(_rows(data, reading.batch)), len(inputs), share)
    if isinstance(data, Iterable):
        return Given(data, len(inputs), share)
    raise UsageError(
        "this is not a supported kind of data",
        code="CB-ANALYZE-03",
        where=f"data={type(data).__name__}",
        why="batches cannot be read from it",
        do="give a folder, file.npz, a tensor, tensors by input name, or an iterable of batches",
    )


def _dataset(
    data: str | Path | Source,
    inputs: Sequence[tuple[str, ...]],
    stated: Sequence[Preprocessing | None],
    reading: DataOptions,
    share: tuple[int, int],
) -> Dataset:
    views: list[Preprocessing | None] = []
    view_of: list[int] = []
    for one in stated:
        same = [number for number, view in enumerate(views) if view == one]
        view_of.append(same[0] if same else len(views))
        views += [] if same else [one]
    opened = open_data(data, views, reading, share=share)  # type: ignore[arg-type]
    return Dataset(opened, tuple(view_of) if opened.views else (0,) * len(inputs), tuple(inputs))


def _rows(data: Mapping[str, Tensor], step: int) -> Iterator[dict[str, Tensor]]:
    count = len(next(iter(data.values())))
    for start in range(0, count, step):
        yield {name: torch.as_tensor(tensor)[start : start + step] for name, tensor in data.items()}


def _no_data(inputs: Sequence[tuple[str, ...]]) -> UsageError:
    return UsageError(
        "no data was given to analyse the model on",
        code="CB-ANALYZE-02",
        where="--data",
        why=f"the built-in photographs need a model with one image input; its inputs are {', '.join(inputs[0])}",
        do="--data images/, or --data file.npz with one array per input",
    )
