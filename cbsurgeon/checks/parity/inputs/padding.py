"""Inputs with padding, for masks that mask no token in the example.

If a mask masks no token, a model computes the same without it. A mask that is ignored or inverted is therefore only
detected with padding.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from cbsurgeon.checks.parity.inputs.feed import PADDED, Feed, Source
from cbsurgeon.graph import Program


def padded(source: Source, batch: int) -> Feed | None:
    """Return inputs whose last tokens are padding, more of them in later samples; ``None`` if there are no masks."""
    program = source.program
    if program is None:
        return None
    names = uniform_masks(program, source.tables)
    if not names:
        return None
    drawn = program.with_batch(batch, seed=batch)
    masked = {name: _with_padding(program.example[name], program.batch_axes[name], batch) for name in names}
    return Feed(PADDED, batch, {**drawn, **masked})


def uniform_masks(program: Program, tables: Collection[str]) -> list[str]:
    """Return the inputs that can be masks and are the same everywhere in the example.

    These are boolean inputs, and numbers that are all 0 or all 1 (floating-point numbers: all 1), with a batch axis and
    one value per token, which index no table.
    """
    return [
        name
        for name, example in program.example.items()
        if name in program.batch_axes and name not in tables and _is_uniform(example, program.batch_axes[name])
    ]


def _is_uniform(example: Tensor, batch_axis: int) -> bool:
    if example.dim() < 2 or batch_axis == example.dim() - 1 or example.shape[-1] < 2 or example.is_complex():
        return False
    ones = bool((example == 1).all())
    return ones or (not example.is_floating_point() and bool((example == 0).all()))


def _with_padding(example: Tensor, batch_axis: int, batch: int) -> Tensor:
    """Return the mask for a batch: the first sample as in the example, the last one with half of it inverted."""
    tokens = example.shape[-1]
    mask = example.narrow(batch_axis, 0, 1).expand(*_sizes(example, batch_axis, batch)).clone()
    place = torch.linspace(0, 1, batch) if batch > 1 else torch.ones(1)  # 0 for the first sample, 1 for the last
    lengths = tokens - (place * (tokens // 2)).long()
    tail = torch.arange(tokens)[None] >= lengths[:, None]
    shape = [1] * mask.dim()
    shape[batch_axis], shape[-1] = batch, tokens
    inverted = ~mask if mask.dtype == torch.bool else 1 - mask
    return torch.where(tail.reshape(shape), inverted, mask)


def _sizes(example: Tensor, axis: int, batch: int) -> list[int]:
    return [batch if other == axis else size for other, size in enumerate(example.shape)]
