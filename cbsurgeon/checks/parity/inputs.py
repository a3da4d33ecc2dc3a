"""Inputs for comparing two models: generated ones, or the user's own arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from cbsurgeon.deploy.artifact import Port
from cbsurgeon.deploy.overflow import enlarged
from cbsurgeon.errors import UsageError
from cbsurgeon.graph import Program, aten

GENERATED, LARGE, VOCABULARY = "generated", "large", "vocabulary"

# Limits on the token ids compared and on their batches: seconds for a BERT on a CPU. The coverage is printed.
MOST_IDS = 8192
MOST_BATCHES = 128

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Feed:
    """Inputs for one comparison.

    Attributes:
        label: ``generated``, ``large``, ``vocabulary``, ``images``, or the name of the user's file.
        batch: number of samples.
        tensors: input name → tensor.
    """

    label: str
    batch: int
    tensors: Mapping[str, Tensor]

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
    """

    program: Program | None
    ports: tuple[Port, ...]
    integers: Mapping[str, Sequence[int]]

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
        low, high = self.integers.get(port.name, (0, 1))
        return torch.randint(int(low), int(high) + 1, shape, generator=generator).to(dtype)


def feeds(source: Source, batches: Sequence[int], given: Arrays | str | Path | None) -> Iterator[Feed]:
    """Yield every set of inputs to compare on.

    Args:
        source: generates inputs.
        batches: batch sizes; the user's samples, if given, are repeated to fill each batch.
        given: the user's arrays by input name, or an ``.npz`` file of them; generated inputs by default.

    Raises:
        UsageError: no batch sizes, or one below 1 (CB-VERIFY-04).
        InputFileError: the file cannot be read.
    """
    if not batches or min(batches) < 1:
        raise UsageError(
            "no valid batch size was given",
            code="CB-VERIFY-04",
            where=f"batches {list(batches)}",
            do="give batch sizes of 1 or more, such as --batches 1,2,7",
        )
    if given is not None:
        label, arrays = _arrays(given)
        for batch in batches:
            yield Feed(label, batch, {name: _rows(value, source, name, batch) for name, value in arrays.items()})
        return
    for batch in batches:
        yield Feed(GENERATED, batch, source.draw(batch))
    batch = sorted(batches)[min(1, len(batches) - 1)]
    drawn = source.draw(batch)
    large = enlarged(drawn)
    if any(not torch.equal(large[name], drawn[name]) for name in drawn):
        yield Feed(LARGE, batch, large)
    if source.program is not None:
        yield from _vocabulary(source.program, max(batches))


def embeddings(program: Program) -> dict[str, int]:
    """Return integer input → number of rows of the embedding table that it indexes, for inputs with a batch axis."""
    found: dict[str, int] = {}
    for node in program.exported.graph.nodes:
        if aten.name(node) != "embedding":
            continue
        table, ids = node.args[0].meta["val"], node.args[1]
        while isinstance(ids, fx.Node) and aten.name(ids) in aten.LAYOUT and len(ids.all_input_nodes) == 1:
            ids = ids.all_input_nodes[0]
        if isinstance(ids, fx.Node) and ids.name in program.batch_axes:
            found[ids.name] = min(int(table.shape[0]), found.get(ids.name, int(table.shape[0])))
    return found


def covered(program: Program, batch: int) -> dict[str, tuple[int, int]]:
    """Return integer input → (number of token ids compared, rows of its embedding table)."""
    found = {}
    for name, rows in embeddings(program).items():
        each = _ids_per_batch(program, name, batch)
        found[name] = (min(rows, MOST_IDS, each * MOST_BATCHES), rows) if each else (0, rows)
    return found


def coverage(program: Program | None, plan: Sequence[Feed]) -> tuple[str, ...]:
    """Return one sentence per token input about how many ids are compared."""
    if program is None or not any(feed.label == VOCABULARY for feed in plan):
        return ()
    found = covered(program, max(feed.batch for feed in plan))
    return tuple(
        f"{name}: {'all ' if ids == rows else ''}{ids:,}{'' if ids == rows else f' of {rows:,}'} token ids compared"
        for name, (ids, rows) in found.items()
    )


def _ids_per_batch(program: Program, name: str, batch: int) -> int:
    example = program.example[name]
    return batch * example.numel() // max(example.shape[program.batch_axes[name]], 1)


def _vocabulary(program: Program, batch: int) -> Iterator[Feed]:
    """Yield batches that together contain every token id, or as many as the limits allow, in random order."""
    plan = {name: (ids, rows) for name, (ids, rows) in covered(program, batch).items() if ids}
    if not plan:
        return
    order = {
        name: torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:ids]
        for name, (ids, rows) in plan.items()
    }
    count = max(-(-ids // _ids_per_batch(program, name, batch)) for name, (ids, _) in plan.items())
    for step in range(count):
        tensors = dict(program.with_batch(batch, seed=step))
        for name, ids in order.items():
            like = tensors[name]
            start = step * like.numel()
            chosen = ids[torch.arange(start, start + like.numel()) % len(ids)]
            tensors[name] = chosen.to(like.dtype).reshape(like.shape)
        yield Feed(VOCABULARY, batch, tensors)


def _arrays(given: Arrays | str | Path) -> tuple[str, dict[str, Tensor]]:
    if isinstance(given, Mapping):
        return "given", {name: torch.as_tensor(value) for name, value in given.items()}
    from cbsurgeon.models.files.arrays import read_arrays

    return Path(given).name, {name: torch.from_numpy(value) for name, value in read_arrays(given).items()}


def _rows(tensor: Tensor, source: Source, name: str, batch: int) -> Tensor:
    """Return ``batch`` samples, repeating from the first if there are too few."""
    axis = source.batch_axes.get(name)
    if axis is None or not tensor.dim() or not tensor.shape[axis]:
        return tensor
    return tensor.index_select(axis, torch.arange(batch) % tensor.shape[axis])
