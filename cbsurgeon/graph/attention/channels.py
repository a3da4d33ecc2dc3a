"""Find which channels of a projection's result are the queries of which head: by channel numbers, or by gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.block import Heads
from cbsurgeon.graph.branches.sites import NoSite

_SHARED = "the queries of several heads depend on the same channels"


def noise(node: fx.Node) -> Tensor:
    """Return random values of a node's shape at capture, none of them zero.

    Raises:
        NoSite: the shape depends on values.
    """
    result = _empty(node)
    return result.copy_(torch.rand(result.shape, generator=torch.Generator().manual_seed(0)) + 0.5)


def numbered(node: fx.Node, axis: int) -> Tensor:
    """Return a tensor of a node's shape at capture whose values are their channel's number, counted from 1."""
    result = _empty(node, torch.float32)
    return result.copy_(along(torch.arange(1, result.shape[axis] + 1), axis, result.dim()))


def _empty(node: fx.Node, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor of a node's shape, strides and type at capture, without values.

    Raises:
        NoSite: the shape depends on values.
    """
    value = aten.value(node)
    assert value is not None
    sizes, strides = ([_at_capture(number) for number in numbers] for numbers in (value.shape, value.stride()))
    return torch.empty_strided(sizes, strides, dtype=dtype or value.dtype)


def written(query: Tensor, channels: int) -> Tensor:
    """Return the same as :func:`owners`, from queries that hold channel numbers (see :func:`numbered`)."""
    owner = torch.full((channels,), -1)
    for head, own in enumerate(query):
        written = torch.zeros(channels, dtype=torch.bool)
        written[own.flatten().long() - 1] = True
        if bool((owner[written] >= 0).any()):
            raise NoSite(_SHARED)
        owner[written] = head
    return owner


def _at_capture(number: int | torch.SymInt) -> int:
    if isinstance(number, int):
        return number
    if number.node.hint is None:
        raise NoSite("the shape of its queries depends on values")
    return int(number.node.hint)


def owners(query: Tensor, given: Tensor, axis: int) -> Tensor:
    """Return ``[channels]``: the head whose queries depend on a channel, or -1.

    The heads are numbered in binary. For every binary digit, two gradients are computed: of the sum over all heads with
    the digit 1, and over all heads with the digit 0.
    """
    count = len(query)
    number = torch.arange(count).view(-1, *[1] * (query.dim() - 1))

    def reached(chosen: Tensor) -> Tensor:
        weights = chosen.to(query.dtype).expand_as(query)
        (slope,) = torch.autograd.grad(query, given, weights, retain_graph=True)
        return slope.movedim(axis, 0).flatten(1).ne(0).any(1)

    anywhere = reached(torch.ones_like(number))
    owner = torch.zeros(given.shape[axis], dtype=torch.long)
    for digit in range((count - 1).bit_length()):
        ones, zeros = reached(number >> digit & 1), reached(1 - (number >> digit & 1))
        if bool((ones & zeros).any()):
            raise NoSite(_SHARED)
        owner += ones.long() << digit
    return owner.masked_fill(~anywhere, -1)


def runs_of(owner: Tensor, count: int) -> Heads:
    """Return the ranges of channels of every head.

    Raises:
        NoSite: a head has no channels.
    """
    heads = tuple(_ranges((owner == head).nonzero().flatten().tolist()) for head in range(count))
    if not all(heads):
        raise NoSite("the queries of a head depend on no channel")
    return heads


def holds(value: Any, owner: Tensor) -> bool:
    """Return whether one or several tensors hold the number of a channel that belongs to any head."""
    if isinstance(value, Tensor):
        return bool((owner[value.long() - 1] >= 0).any())
    return any(holds(part, owner) for part in value) if isinstance(value, tuple | list) else False


def _ranges(places: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Sorted numbers as ``(start, stop)`` of every run."""
    runs: list[tuple[int, int]] = []
    for place in places:
        if runs and runs[-1][1] == place:
            runs[-1] = (runs[-1][0], place + 1)
        else:
            runs.append((place, place + 1))
    return tuple(runs)


def along(vector: Tensor, axis: int, rank: int) -> Tensor:
    """Return a vector reshaped to lie along one axis of a tensor."""
    return vector.view(*[-1 if place == axis else 1 for place in range(rank)])


def differ(one: Any, other: Any) -> bool:
    """Whether two results of a node differ."""
    if isinstance(one, Tensor):
        return not torch.equal(one, other)
    if isinstance(one, Mapping) or not isinstance(one, tuple | list):
        return bool(one != other)
    return any(differ(mine, its) for mine, its in zip(one, other, strict=True))
