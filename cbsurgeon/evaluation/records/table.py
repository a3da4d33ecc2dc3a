"""What was recorded of each image: one row an image, whatever process read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Table:
    """Columns of numbers, one row an image.

    Attributes:
        indices: number of each image in the dataset.
        names: its name.
        columns: name → numbers ``[images, ...]``, float64.
    """

    def __init__(self) -> None:
        self.indices: list[Tensor] = []
        self.names: list[str] = []
        self.columns: dict[str, list[Tensor]] = {}

    def __len__(self) -> int:
        return len(self.names)

    def add(self, indices: Tensor, names: Sequence[str], columns: Mapping[str, Tensor]) -> None:
        """Append the rows of one batch."""
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
        """Indices, names and columns in the order of the dataset, so that sums do not depend on who read what when."""
        indices = torch.cat(self.indices) if self.indices else torch.zeros(0, dtype=torch.int64)
        order = indices.argsort()
        columns = {name: torch.cat(parts)[order] for name, parts in self.columns.items()}
        return indices[order], [self.names[place] for place in order.tolist()], columns
