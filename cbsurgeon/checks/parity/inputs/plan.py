"""The plan of a comparison: which inputs the two models run on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cbsurgeon.checks.parity.inputs.feed import GENERATED, LARGE, Feed, Source
from cbsurgeon.checks.parity.inputs.padding import padded
from cbsurgeon.checks.parity.inputs.vocabulary import vocabulary
from cbsurgeon.deploy.overflow import enlarged
from cbsurgeon.errors import UsageError

Arrays = Mapping[str, Any]


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
            rows = {name: _rows(value, source, name, batch) for name, value in arrays.items()}
            yield Feed(label, batch, rows, given=True)
        return
    for batch in batches:
        yield Feed(GENERATED, batch, source.draw(batch))
    batch = sorted(batches)[min(1, len(batches) - 1)]
    drawn = source.draw(batch)
    large = enlarged(drawn)
    if any(not torch.equal(large[name], drawn[name]) for name in drawn):
        yield Feed(LARGE, batch, large)
    yield from vocabulary(source, max(batches))
    masked = padded(source, batch)
    if masked is not None:
        yield masked


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
