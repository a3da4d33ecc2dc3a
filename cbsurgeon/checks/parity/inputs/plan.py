"""The plan of a comparison: which inputs the two models run on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cbsurgeon.checks.parity.inputs.feed import GENERATED, LARGE, SMALL, Feed, Source
from cbsurgeon.checks.parity.inputs.padding import padded
from cbsurgeon.checks.parity.inputs.vocabulary import vocabulary
from cbsurgeon.deploy.overflow import enlarged
from cbsurgeon.errors import UsageError

Arrays = Mapping[str, Any]

# The variance of such inputs is below the usual epsilons of normalizations. Smaller ones lose digits in float16.
SMALL_MAGNITUDE = 1e-3


def feeds(
    source: Source, batches: Sequence[int], given: Arrays | str | Path | None, *, zero: bool = True
) -> Iterator[Feed]:
    """Yield every set of inputs to compare on.

    Args:
        source: generates inputs.
        batches: batch sizes; the user's samples, if given, are repeated to fill each batch.
        given: the user's arrays by input name, or an ``.npz`` file of them; generated inputs by default.
        zero: use an input of zeros. With it, values in a model can be so small that 16-bit types lose their digits.

    Raises:
        UsageError: no batch sizes, or one below 1 (CB-VERIFY-04).
        InputFileError: the file cannot be read.
    """
    if not batches or min(batches) < 1:
        raise UsageError(
            "no valid batch size was given",
            code="CB-VERIFY-04",
            where=f"batches {list(batches)}",
            why="a batch has at least one sample",
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
    yield from _other_magnitudes(drawn, batch, source, zero)
    yield from vocabulary(source, max(batches))
    masked = padded(source, batch)
    if masked is not None:
        yield masked


def _other_magnitudes(drawn: Mapping[str, Tensor], batch: int, source: Source, zero: bool) -> Iterator[Feed]:
    """Yield inputs of large and small magnitude; none for inputs that are masks, or between 0 and 1.

    Every second large sample is the negative of the one before it, so that a clamp of large values, such as ReLU6, is
    active for one of the two. Small samples are close to zero, where the epsilon of a normalization determines the
    output. With ``zero``, every second small sample is zero.
    """
    large, axes = enlarged(drawn), source.batch_axes
    changed = [name for name in drawn if not torch.equal(large[name], drawn[name])]
    if not changed:
        return
    pairs = {name: _repeated(large[name], axes.get(name)) for name in changed}
    for factors in ((1.0, -1.0),) if batch > 1 else ((1.0,), (-1.0,)):
        yield Feed(LARGE, batch, {**drawn, **{name: _times(pairs[name], axes.get(name), factors) for name in changed}})
    factors = (SMALL_MAGNITUDE, 0.0 if zero else -SMALL_MAGNITUDE)
    small = {name: _times(drawn[name], axes.get(name), factors) for name in changed}
    yield Feed(SMALL, batch, {**drawn, **small})


def _repeated(tensor: Tensor, axis: int | None) -> Tensor:
    """Return the tensor with every other sample replaced by the one before it."""
    return tensor if axis is None else tensor.index_select(axis, torch.arange(tensor.shape[axis]) // 2 * 2)


def _times(tensor: Tensor, axis: int | None, factors: Sequence[float]) -> Tensor:
    """Multiply each sample with one of the factors, in turn; a tensor without samples with the first one."""
    if axis is None:
        return tensor * factors[0]
    shape = [-1 if other == axis else 1 for other in range(tensor.dim())]
    places = torch.arange(tensor.shape[axis]) % len(factors)
    return tensor * torch.tensor(factors, dtype=tensor.dtype)[places].reshape(shape)


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
