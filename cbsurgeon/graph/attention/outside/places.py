"""Tensors of a run whose tokens are changed or compared: inputs, outputs of blocks, and outputs of the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cbsurgeon.graph.block import Block


@dataclass(frozen=True)
class Tokens:
    """The token axes of a tensor, and the number of tokens. Several positions of an axis may make up one token."""

    axes: tuple[int, ...]
    count: int

    def rows(self, tensor: Tensor) -> Tensor:
        """Return the tensor as ``[tokens, everything else]``."""
        return tensor.movedim(self.axes, tuple(range(len(self.axes)))).reshape(self.count, -1)

    def changed(self, tensor: Tensor, which: Tensor) -> Tensor:
        """Return the tensor with other values for the tokens marked true in ``[tokens]``: noise is added to floats, and
        whole numbers are exchanged with those of other tokens."""
        front = tuple(range(len(self.axes)))
        moved = tensor.movedim(self.axes, front)
        rows = moved.reshape(self.count, -1)
        other = _noisy(rows) if tensor.is_floating_point() else _exchanged(rows)
        return torch.where(which[:, None], other, rows).view(moved.shape).movedim(front, self.axes)


def _noisy(rows: Tensor) -> Tensor:
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    return rows + noise.to(rows) * (rows.float().std() + 1e-3).to(rows)


def _exchanged(rows: Tensor) -> Tensor:
    """Numbers that are elsewhere in the tensor; 0 and 1 are exchanged if all are equal."""
    other = rows.roll(1, 0)
    return torch.where(other == rows, (rows == 0).to(rows.dtype), other)


@dataclass(frozen=True)
class Place:
    """The output of one block: the module and hook where it is observed, and its tokens."""

    stack: str
    module: str
    when: str
    tokens: Tokens


def places(*branches: Sequence[Block]) -> list[list[Place]]:
    """Return the outputs of the blocks, in groups with the same number of tokens."""
    groups: dict[int, list[Place]] = {}
    for block in (one for some in branches for one in some):
        site = block.sites.get("end")
        if site is not None and site.hooks and site.unfold is None and site.tokens > 1:
            hook = site.hooks[0]
            place = Place(block.stack, hook.module, hook.when, Tokens(site.token_axes, site.tokens))
            groups.setdefault(site.tokens, []).append(place)
    return list(groups.values())


def tokens_of_input(leaf: object, batch: int | None, count: int) -> list[Tokens]:
    """Return the axes of an input that could be its tokens: they hold one or more positions for each token.

    Args:
        leaf: the input. Masks of zeros and ones hold no tokens.
        batch: its batch axis.
        count: number of tokens.
    """
    if not isinstance(leaf, Tensor) or leaf.dtype == torch.bool or leaf.is_complex():
        return []
    if not leaf.numel() or bool(((leaf == 0) | (leaf == 1)).all()):
        return []
    sizes = enumerate(leaf.shape)
    return [Tokens((axis,), count) for axis, size in sizes if axis != batch and size and size % count == 0]


def tokens_of_output(leaf: Tensor, samples: int | None, count: int) -> Tokens | None:
    """Return the axis of an output that holds its tokens; the whole output is one token if there is none, and the
    result is ``None`` if there are several.

    Args:
        leaf: the output.
        samples: number of samples. An axis as long as this is not one of tokens if there is another.
        count: number of tokens.
    """
    axes = [axis for axis, size in enumerate(leaf.shape) if size == count]
    if len(axes) > 1 and samples == count:
        axes = axes[1:]
    if not axes:
        return Tokens((), 1) if math.prod(leaf.shape) else None
    return Tokens((axes[0],), count) if len(axes) == 1 else None
