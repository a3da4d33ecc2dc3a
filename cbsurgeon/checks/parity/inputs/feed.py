"""One set of inputs of a comparison, and what is known about valid inputs of the two models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cbsurgeon.deploy.artifact import Port
from cbsurgeon.graph import Program
from cbsurgeon.vocabulary import INPUTS

GENERATED, LARGE, SMALL, VOCABULARY, PADDED = INPUTS


@dataclass(frozen=True)
class Feed:
    """Inputs for one comparison.

    Attributes:
        label: ``generated``, ``large``, ``small``, ``vocabulary``, ``padded``, ``images``, or the name of the
            user's file.
        batch: number of samples.
        tensors: input name → tensor.
        given: whether they are the user's own.
    """

    label: str
    batch: int
    tensors: Mapping[str, Tensor]
    given: bool = False

    def first(self, count: int, batch_axes: Mapping[str, int]) -> dict[str, Tensor]:
        """Return the first ``count`` samples."""
        return {
            name: tensor.narrow(batch_axes[name], 0, min(count, self.batch)) if name in batch_axes else tensor
            for name, tensor in self.tensors.items()
        }


@dataclass(frozen=True)
class Source:
    """Generates inputs.

    Attributes:
        program: a captured model; its example inputs show what valid inputs look like.
        ports: names, types and dims of the inputs, used if there is no program.
        integers: lowest and highest value of integer inputs, from a file's metadata.
        tables: integer inputs with a batch axis that index a table → the indices that the table has.
        cut: those of ``tables`` of which the model drops some positions before the lookup.
    """

    program: Program | None
    ports: tuple[Port, ...]
    integers: Mapping[str, Sequence[int]]
    tables: Mapping[str, range] = field(default_factory=dict)
    cut: frozenset[str] = frozenset()

    @property
    def batch_axes(self) -> Mapping[str, int]:
        """Input name → batch axis."""
        if self.program is not None:
            return self.program.batch_axes
        return {port.name: 0 for port in self.ports if port.dims and isinstance(port.dims[0], str)}

    def draw(self, batch: int) -> dict[str, Tensor]:
        """Return inputs of one batch size; repeated calls return the same values."""
        if self.program is not None:
            return self.program.with_batch(batch, seed=batch)
        generator = torch.Generator().manual_seed(batch)
        return {port.name: self._draw(port, batch, generator) for port in self.ports}

    def _draw(self, port: Port, batch: int, generator: torch.Generator) -> Tensor:
        shape = port.shape(batch)
        dtype = getattr(torch, port.dtype, torch.float32)
        if dtype.is_floating_point:
            return torch.randn(shape, generator=generator).to(dtype)
        table = self.tables.get(port.name)
        low, high = self.integers.get(port.name, (table[0], table[-1]) if table else (0, 1))
        return torch.randint(int(low), int(high) + 1, shape, generator=generator).to(dtype)
