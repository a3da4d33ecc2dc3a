"""The part of a program that computes a stack, and the axes of the stack's tokens in its tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.roles import channel_axis, roles_where_shared, unfolded
from cbsurgeon.graph.axes.table import BATCH, Factor
from cbsurgeon.graph.blocks.reading import Reading

_FAR = 4000

Tokens = tuple[Factor, ...]
"""The tokens of a stream: the pieces of its token axes in row-major order, with representative axis identities."""


@dataclass(frozen=True)
class Layout:
    """The axes that hold the tokens of a stream in a tensor.

    Attributes:
        sizes: shape the tensor is reshaped to first, so that every piece of the token axes is a separate axis; -1 for
            the samples.
        places: the axes of that shape that hold tokens.
    """

    sizes: tuple[int, ...]
    places: tuple[int, ...]

    def rows(self, tensor: Tensor) -> Tensor:
        """Return the tensor as ``[tokens, everything else]``."""
        first = tensor.reshape(self.sizes).movedim(self.places, tuple(range(len(self.places))))
        return first.reshape(math.prod(first.shape[: len(self.places)]), -1)

    def tensor(self, rows: Tensor, like: Tensor) -> Tensor:
        """Return the tensor whose :meth:`rows` these are, with the shape and strides of ``like`` (views rely on
        them)."""
        target = tuple(range(len(self.places)))
        shape = like.reshape(self.sizes).movedim(self.places, target).shape
        changed = rows.reshape(shape).movedim(target, self.places).reshape(like.shape)
        return torch.empty_like(like).copy_(changed)


@dataclass(frozen=True)
class Stretch:
    """The part of a program between two tensors that hold the same tokens.

    Attributes:
        entry, exits: the tensor whose tokens are changed, and those that are compared.
        layouts: where the tokens lie in each of these tensors.
        sizes: sizes of the token axes; pieces of one axis (frames and patches, rows and columns) are listed separately.
    """

    entry: fx.Node
    exits: tuple[fx.Node, ...]
    layouts: Mapping[fx.Node, Layout]
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of tokens."""
        return math.prod(self.sizes)


def stretch(reading: Reading, stream: fx.Node, total: fx.Node, tokens: Tokens, *, far: bool) -> Stretch | None:
    """Return the stretch around one stack, or ``None`` if its tokens cannot be followed.

    Args:
        reading: what was read from the program.
        stream: the residual stream that its first block reads.
        total: the residual add of its last block.
        tokens: the tokens of that stream.
        far: start at the first tensor that holds these tokens instead of at the stream, to include token mixers before
            the first block. The exits always include the last tensors that hold the tokens, for those after the last
            block: one as large as the stream, and one of any size.
    """
    flow = reading.flow
    entry = begin(reading, stream, tokens) if far else stream
    wanted = [total, *last_tensors(flow, total, tokens)]
    found = {node: layout for node in (entry, *wanted) if (layout := layout_of(flow, node, tokens)) is not None}
    exits = tuple(dict.fromkeys(node for node in wanted if node in found and node is not entry))
    if entry not in found or not exits:
        return None
    part = Stretch(entry, exits, found, tuple(factor.size for factor in tokens))
    return part if part.count > 1 else None


def pooled(reading: Reading, part: Stretch) -> list[Stretch]:
    """Return a stretch from the same entry to each output of the model in which the tokens are pooled."""
    flow, found = reading.flow, list[Stretch]()
    for node in [node for last in flow.order if last.op == "output" for node in last.all_input_nodes]:
        if node is not part.entry and is_float(node) and node not in part.exits:
            layouts = {part.entry: part.layouts[part.entry], node: Layout((-1,), ())}
            found.append(Stretch(part.entry, (node,), layouts, part.sizes))
    return found


def begin(reading: Reading, stream: fx.Node, tokens: Tokens) -> fx.Node:
    """Return the first tensor upstream that holds the tokens."""
    first, node = stream, reading.lineage.upstream(stream)
    for _ in range(_FAR):
        if node is None:
            break
        known = node in reading.flow.table.dims  # a recurrent layer returns a list, which has no axes of its own
        if known and is_float(node) and layout_of(reading.flow, node, tokens) is not None:
            first = node
        node = reading.lineage.upstream(node)
    return first


def last_tensors(flow: Flow, total: fx.Node, tokens: Tokens) -> tuple[fx.Node, fx.Node]:
    """Return the last tensor that holds the tokens, is as large as the stream, and was computed from it; and the last
    one of any size."""
    size = _size(flow, total)
    reached, last, other = {total}, total, total
    for node in list(flow.order)[flow.order[total] + 1 :]:
        if node.op != "call_function" or not reached.intersection(node.all_input_nodes):
            continue
        reached.add(node)
        if node in flow.table.dims and is_float(node) and layout_of(flow, node, tokens) is not None:
            last, other = node if _size(flow, node) == size else last, node
    return last, other


def _size(flow: Flow, node: fx.Node) -> int:
    return math.prod(flow.table.sizes(node))


def is_float(node: fx.Node) -> bool:
    """Return whether the result of a node is a floating-point tensor."""
    val = node.meta.get("val")
    return isinstance(val, Tensor) and val.is_floating_point()


def tokens_of(flow: Flow, stream: fx.Node) -> Tokens | None:
    """Return the tokens of a stream, or ``None`` if it has none."""
    channel = channel_axis(flow, stream)
    known = roles_where_shared(flow, flow.of(stream), {channel}) if channel is not None else None
    if known is None or not known.tokens:
        return None
    split = unfolded(flow.of(stream)) if known.unfold is not None else None
    dims = split[0] if split is not None else flow.of(stream)
    return tuple(factor for place in known.tokens for factor in flow.plain(dims[place]))


def layout_of(flow: Flow, node: fx.Node, tokens: Tokens, *, alone: bool = False) -> Layout | None:
    """Return the axes of the tokens in a tensor; ``None`` unless it has every piece once and a channel axis as well."""
    factors = [factor for dim in flow.of(node) for factor in flow.plain(dim)]
    if sum(factor.axis == BATCH for factor in factors) > 1:
        return None
    if len(set(tokens)) == len(tokens) and all(factors.count(factor) == 1 for factor in tokens):
        places = tuple(factors.index(factor) for factor in tokens)
    else:  # pieces of one axis that are equally long are told apart by their order alone
        kept = [place for place, factor in enumerate(factors) if factor in tokens]
        if tuple(factors[place] for place in kept) != tokens:
            return None
        places = tuple(kept)
    rest = [factor for place, factor in enumerate(factors) if place not in places]
    sizes = tuple(-1 if factor.axis == BATCH else factor.size for factor in factors)
    return Layout(sizes, places) if alone or any(factor.axis != BATCH for factor in rest) else None
