"""Collecting the statistics of every attention of a model over all images, and merging those of several processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cbsurgeon.analysis.statistics.reducing import NAMES, Reduced, Reducer
from cbsurgeon.analysis.tapping import Tapped


@dataclass
class Record:
    """The statistics of one attention.

    Attributes:
        values: one value of each quantity per image, float64 ``[images, len(NAMES)]``, in pieces.
        heads: mean entropy of each head per image, float64 ``[images, heads]``, in pieces.
        histogram: number of rows per bin of entropy.
    """

    values: list[Tensor] = field(default_factory=list)
    heads: list[Tensor] = field(default_factory=list)
    histogram: Tensor | None = None

    def add(self, reduced: Reduced, images: int) -> None:
        """Add a batch; a map that does not depend on the image counts once per image."""
        table = torch.stack([reduced.values[name] for name in NAMES], 1)
        same = len(table) == 1 and images > 1
        self.values.append(table.expand(images, -1) if same else table)
        self.heads.append(reduced.heads.expand(images, -1) if same else reduced.heads)
        counted = reduced.histogram * images if same else reduced.histogram
        self.histogram = counted if self.histogram is None else self.histogram + counted


@dataclass
class Collected:
    """The statistics of one model, from one process or from all.

    Attributes:
        indices: indices of the images.
        records: one record per attention.
    """

    indices: list[int]
    records: list[Record]


class Collector:
    """Runs one model on batches and collects statistics of its attention maps.

    Args:
        tapped: the model.
    """

    def __init__(self, tapped: Tapped) -> None:
        self.tapped = tapped
        self._reducers = [Reducer(tap) for tap in tapped.taps]
        self.collected = Collected([], [Record() for _ in tapped.taps])

    def add(self, inputs: dict[str, Tensor], indices: Sequence[int], keep: Any = None) -> None:
        """Run the model on one batch.

        Args:
            inputs: tensors by input name.
            indices: indices of the images.
            keep: called with the number and the map of every attention, before the map is freed.
        """
        for number, (_, weights) in enumerate(self.tapped.run(inputs)):
            self.collected.records[number].add(self._reducers[number](weights), len(indices))
            if keep is not None:
                keep(number, weights)
        self.collected.indices += indices


def merged(parts: Sequence[Collected]) -> Collected:
    """Merge the statistics of several processes, in the order of the images.

    Later sums over images use this order, and histograms are integers. So the result does not depend on which process
    read which image.
    """
    indices = [index for part in parts for index in part.indices]
    order = torch.tensor(indices, dtype=torch.int64).argsort()
    records = []
    for number in range(len(parts[0].records)):
        own = [part.records[number] for part in parts if part.records[number].histogram is not None]
        if not own:
            records.append(Record())
            continue
        values = torch.cat([piece for record in own for piece in record.values])[order]
        heads = torch.cat([piece for record in own for piece in record.heads])[order]
        histograms = torch.stack([record.histogram for record in own if record.histogram is not None])
        records.append(Record([values], [heads], histograms.sum(0)))
    return Collected(sorted(indices), records)
