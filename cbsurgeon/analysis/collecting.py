"""The numbers of every attention of one model over all images, and how those of several processes become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cbsurgeon.analysis.reducing import NAMES, Reduced, Reducer
from cbsurgeon.analysis.tapping import Tapped


@dataclass
class Record:
    """What was collected of one attention.

    Attributes:
        values: numbers per image, float64 ``[images, len(NAMES)]``, in pieces.
        heads: mean entropy of each head per image, float64 ``[images, heads]``, in pieces.
        histogram: counted entropies of rows.
    """

    values: list[Tensor] = field(default_factory=list)
    heads: list[Tensor] = field(default_factory=list)
    histogram: Tensor | None = None

    def add(self, reduced: Reduced, images: int) -> None:
        """Add a batch; a map that is the same for all images is counted for each."""
        table = torch.stack([reduced.values[name] for name in NAMES], 1)
        same = len(table) == 1 and images > 1
        self.values.append(table.expand(images, -1) if same else table)
        self.heads.append(reduced.heads.expand(images, -1) if same else reduced.heads)
        counted = reduced.histogram * images if same else reduced.histogram
        self.histogram = counted if self.histogram is None else self.histogram + counted


@dataclass
class Collected:
    """What was collected of one model, by one process or by all.

    Attributes:
        indices: numbers of the images.
        records: one per attention.
    """

    indices: list[int]
    records: list[Record]


class Collector:
    """Runs one model on batches and collects.

    Args:
        tapped: the model.
    """

    def __init__(self, tapped: Tapped) -> None:
        self.tapped = tapped
        self._reducers = [Reducer(tap) for tap in tapped.taps]
        self.collected = Collected([], [Record() for _ in tapped.taps])

    def add(self, inputs: dict[str, Tensor], indices: Sequence[int], keep: Any = None) -> None:
        """One batch.

        Args:
            inputs: by input name.
            indices: numbers of its images.
            keep: called with every attention's number and its map before the map goes.
        """
        for number, (_, weights) in enumerate(self.tapped.run(inputs)):
            self.collected.records[number].add(self._reducers[number](weights), len(indices))
            if keep is not None:
                keep(number, weights)
        self.collected.indices += indices


def merged(parts: Sequence[Collected]) -> Collected:
    """What several processes collected as one, in the order of the images.

    Sums over images are taken in this order afterwards, and histograms hold whole numbers: the result does not depend
    on which process read which image.
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
