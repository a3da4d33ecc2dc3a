"""Token axes along which a model keeps positions apart, such as an axis of views, crops or variates.

If each output of the model has such an axis, and each position along it only changes itself, a mean over it would mix
what the model never mixes. The axis is then treated like the batch: the operator averages over the other token axes.
An axis that a later layer pools is not of this kind, and neither is the only token axis of a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import fx

from cbsurgeon.graph.attention.probing.influence import Probe
from cbsurgeon.graph.attention.probing.stretches import Stretch, Tokens, begin, is_float, layout_of, tokens_of
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.roles import unfolded
from cbsurgeon.graph.axes.table import Factor
from cbsurgeon.graph.block import Block, Site
from cbsurgeon.graph.blocks.reading import Found, Reading

SHARED = "positions that the model keeps apart share an axis with the tokens there"
UNPROVED = "the model may keep positions along a token axis apart, and the weights hold no values to prove it"


def without_apart(
    reading: Reading, groups: Sequence[list[Found]], blocks: Sequence[Block], run: Probe | None
) -> list[Block]:
    """Return the blocks without the token axes along which the model keeps positions apart.

    Args:
        reading: what was read from the program.
        groups: the occurrences of each block.
        blocks: the blocks.
        run: runs the program; ``None`` if the weights have no values. Blocks for which a run would decide are then not
            available.
    """
    known: dict[tuple[str, Tokens], frozenset[Factor] | None] = {}
    return [_judged(reading, group[0], block, run, known) for group, block in zip(groups, blocks, strict=True)]


def _judged(
    reading: Reading,
    found: Found,
    block: Block,
    run: Probe | None,
    known: dict[tuple[str, Tokens], frozenset[Factor] | None],
) -> Block:
    stream = found.branch.stream
    tokens = tokens_of(reading.flow, stream) if stream is not None else None
    if stream is None or tokens is None or len(tokens) < 2 or len(set(tokens)) != len(tokens):
        return block
    key = (block.stack, tokens)
    if key not in known:
        known[key] = _apart(reading, stream, tokens, run)
    apart = known[key]
    if apart is None:
        return replace(block, sites={}, unavailable={**block.unavailable, **dict.fromkeys(block.sites, UNPROVED)})
    return _without(reading.flow, block, apart) if apart else block


def _apart(reading: Reading, stream: fx.Node, tokens: Tokens, run: Probe | None) -> frozenset[Factor] | None:
    """Return the pieces of the token axes along which positions are kept apart; ``None`` if a run has to decide."""
    parts = [(factor, part) for factor in tokens if (part := _along(reading, stream, tokens, factor)) is not None]
    if run is None:
        return None if 0 < len(parts) < len(tokens) else frozenset()
    found = frozenset(factor for factor, part in parts if run.apart(part))
    return found if len(found) < len(tokens) else frozenset()  # a model that never mixes tokens has them all the same


def _along(reading: Reading, stream: fx.Node, tokens: Tokens, factor: Factor) -> Stretch | None:
    """Return the stretch from the first tensor with these tokens to the outputs of the model, with the positions along
    one axis as its tokens; ``None`` if an output does not have this axis."""
    if factor.size < 2:
        return None
    entry = begin(reading, stream, tokens)
    exits = tuple(dict.fromkeys(_outputs(reading.flow, entry)))
    layouts = {node: layout_of(reading.flow, node, (factor,), alone=True) for node in (entry, *exits)}
    found = {node: layout for node, layout in layouts.items() if layout is not None}
    return Stretch(entry, exits, found, (factor.size,)) if exits and len(found) == len(layouts) else None


def _outputs(flow: Flow, entry: fx.Node) -> Iterator[fx.Node]:
    """Yield the outputs of the model that depend on a node."""
    reached = {entry}
    for node in list(flow.order)[flow.order[entry] + 1 :]:
        if node.op == "output":
            yield from (each for each in node.all_input_nodes if each in reached and is_float(each))
        elif reached.intersection(node.all_input_nodes):
            reached.add(node)


def _without(flow: Flow, block: Block, apart: frozenset[Factor]) -> Block:
    nodes = {node.name: node for node in flow.order}
    sites: dict[str, Site] = {}
    unavailable = dict(block.unavailable)
    for position, site in block.sites.items():
        changed = _narrowed(flow, site, nodes[site.uses[0].value], apart)
        if changed is None:
            unavailable[position] = SHARED
        else:
            sites[position] = changed
    shown = sites.get("end")
    if shown is None:
        return replace(block, sites=sites, unavailable=unavailable)
    return replace(block, sites=sites, unavailable=unavailable, token_axes=shown.token_axes, tokens=shown.tokens)


def _narrowed(flow: Flow, site: Site, node: fx.Node, apart: frozenset[Factor]) -> Site | None:
    """Return the site without some token axes; ``None`` if one of them is not an axis of its own there, or none is
    left."""
    split = unfolded(flow.of(node)) if site.unfold is not None else None
    dims = [flow.plain(dim) for dim in (split[0] if split is not None else flow.of(node))]
    dropped = [axis for axis in site.token_axes if apart.intersection(dims[axis])]
    kept = tuple(axis for axis in site.token_axes if axis not in dropped)
    if not kept or any(not apart.issuperset(dims[axis]) for axis in dropped):
        return None
    count = math.prod(factor.size for axis in dropped for factor in dims[axis])
    batch = tuple(sorted((*site.batch_axes, *dropped)))
    return replace(site, token_axes=kept, batch_axes=batch, tokens=site.tokens // count)
