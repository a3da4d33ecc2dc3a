"""Making batches of samples: decoding, preprocessing and recording unreadable samples. Runs in worker processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy
import torch
from torch import Tensor

from cbsurgeon.data.decoding import MOST_PIXELS, Unreadable, decode, decode_map
from cbsurgeon.data.sample import Batch, Inputs, Problem, Sample
from cbsurgeon.data.sources.source import Source
from cbsurgeon.errors import InputFileError
from cbsurgeon.models import Preprocessing
from cbsurgeon.models.imaging import MODES, framed, map_of, normalized, scaled


class Collector:
    """Makes batches of the samples in a unit (a part of the dataset that one process reads as a whole).

    Args:
        source: the dataset.
        views: the preprocessings; a batch contains each image once per preprocessing. Empty for arrays.
        batch: samples per batch.
        strict: raise an error for an unreadable sample.
    """

    def __init__(self, source: Source, views: tuple[Preprocessing, ...], batch: int, strict: bool) -> None:
        self.source, self.views, self.batch, self.strict = source, views, batch, strict

    def batches(self, unit: int) -> Iterator[Batch]:
        """Yield the batches of one unit, the last one marked; one empty batch if no sample is readable."""
        held: list[Sample] = []
        previous: Batch | None = None
        for sample in self.source.unit(unit, self.batch):
            held.append(sample)
            if len(held) == self.batch:
                if previous is not None:
                    yield previous
                previous, held = self._collate(unit, held, last=False), []
        if held or previous is None:
            if previous is not None:
                yield previous
            yield self._collate(unit, held, last=True)
        else:
            yield replace(previous, last=True)

    def _collate(self, unit: int, samples: list[Sample], *, last: bool) -> Batch:
        notes: Counter[str] = Counter()
        good: list[Sample] = []
        pictures: list[tuple[Tensor, ...]] = []
        labels: list[Any] = []
        problems: list[Problem] = []
        for sample in samples:
            try:
                picture, said = self._picture(sample)
                label = self._label(sample)
            except Unreadable as error:
                if self.strict:
                    raise _refused(self.source.spec, sample.name, str(error)) from error
                problems.append(Problem(sample.name, str(error)))
                continue
            good.append(sample)
            pictures.append(picture)
            labels.append(label)
            notes.update(said)
        return Batch(
            unit,
            last,
            torch.tensor([sample.index for sample in good], dtype=torch.int64),
            tuple(sample.name for sample in good),
            self._views(good, pictures) if good else (),
            _stacked(labels, self.source.spec) if self.source.labelled and good else None,
            tuple(problems),
            dict(notes),
        )

    def _picture(self, sample: Sample) -> tuple[tuple[Tensor, ...], tuple[str, ...]]:
        if not self.source.pictures:
            return (), ()
        modes = [MODES[view.channels] for view in self.views]
        image, notes = decode(sample.image, modes[0])
        self._limit(image.height, image.width)
        return tuple(
            framed(image if mode == modes[0] else image.convert(mode), view)
            for mode, view in zip(modes, self.views, strict=True)
        ), notes

    def _label(self, sample: Sample) -> Any:
        label = sample.label
        if label is None or isinstance(label, int):
            return label
        if isinstance(label, numpy.ndarray) and label.ndim != 2:
            return torch.from_numpy(label.copy())
        found = torch.from_numpy(decode_map(label))
        self._limit(int(found.shape[0]), int(found.shape[1]))
        return map_of(found, self.views[0]) if self.source.pictures else found

    def _limit(self, height: int, width: int) -> None:
        """Raise an error for an image without pixels, or so narrow that scaling its shorter side takes gigabytes.

        Raises:
            Unreadable: it has no pixels, or is too large after scaling.
        """
        if not height or not width:
            raise Unreadable("it has no pixels")
        for view in self.views:
            tall, wide = (height, width) if view.resize == "none" else scaled(height, width, view)
            if tall * wide > MOST_PIXELS:
                size = f"{wide} x {tall} pixels, at most {MOST_PIXELS} are decoded"
                raise Unreadable(f"it has {width} x {height} pixels, and scaled for the model {size}")

    def _views(self, samples: list[Sample], pictures: list[tuple[Tensor, ...]]) -> tuple[Inputs, ...]:
        if self.source.pictures:
            stacks = [torch.stack(views) for views in zip(*pictures, strict=True)]
            return tuple(normalized(stack, view) for stack, view in zip(stacks, self.views, strict=True))
        arrays = [sample.arrays or {} for sample in samples]
        inputs = {name: torch.from_numpy(numpy.stack([each[name] for each in arrays])) for name in arrays[0]}
        return (inputs,) * max(1, len(self.views))


def _stacked(labels: list[Any], where: str) -> Tensor:
    if all(isinstance(label, int) for label in labels):
        return torch.tensor(labels, dtype=torch.int64)
    if len({tuple(label.shape) for label in labels}) != 1:
        raise InputFileError(
            "the labels have different shapes",
            code="CB-DATA-09",
            where=where,
            why=", ".join(sorted({str(list(label.shape)) for label in labels})),
            do="give every sample a label of the same shape",
        )
    return torch.stack(labels)


def _refused(where: str, name: str, why: str) -> InputFileError:
    return InputFileError(
        "a sample cannot be read",
        code="CB-DATA-11",
        where=f"{where}: {name}",
        why=why,
        do="repair or remove it; without --strict it is counted and left out",
    )
