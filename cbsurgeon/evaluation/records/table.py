"""The table of records, with one row per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Table:
    """Columns of numbers with one row per image.

    Attributes:
        indices: index of each image in the dataset.
        names: name of each image.
        columns: name → numbers ``[images, ...]``, float64.
    """

    def __init__(self) -> None:
        self.indices: list[Tensor] = []
        self.names: list[str] = []
        self.columns: dict[str, list[Tensor]] = {}

    def __len__(self) -> int:
        return len(self.names)

    def add(self, indices: Tensor, names: Sequence[str], columns: Mapping[str, Tensor]) -> None:
        """Append the records of one batch."""
        self.indices.append(indices)
        self.names.extend(names)
        for name, column in columns.items():
            self.columns.setdefault(name, []).append(column.detach().cpu().double())

    def extend(self, other: Table) -> None:
        """Append another table's rows."""
        self.indices += other.indices
        self.names += other.names
        for name, parts in other.columns.items():
            self.columns.setdefault(name, []).extend(parts)

    def ordered(self) -> tuple[Tensor, list[str], dict[str, Tensor]]:
        """Return indices, names and columns in the order of the dataset, which makes sums reproducible."""
        indices = torch.cat(self.indices) if self.indices else torch.zeros(0, dtype=torch.int64)
        order = indices.argsort()
        columns = {name: torch.cat(parts)[order] for name, parts in self.columns.items()}
        return indices[order], [self.names[index] for index in order.tolist()], columns
