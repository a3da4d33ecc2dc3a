"""Orders that layers compute from their own tokens: they sort or rank them by a learned score, and attend causally.

Noise on the tokens changes such an order, so that a run with changed tokens shows none. Each layer is tested alone, by
derivatives, which leave the order as it is, or by small changes where an operator has no derivative. A layer is tested
only if the graph turns values of tokens into something that an order could be made of, such as ranks, or calls code
that the graph does not show.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence

from torch import Tensor, fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.causality import by_stack, resolutions
from cbsurgeon.graph.attention.probing.influence import Probe
from cbsurgeon.graph.attention.probing.stretches import Stretch, begin, last_tensors, layout_of
from cbsurgeon.graph.blocks.reading import Found, Reading

STEPWISE = frozenset({"sort", "msort", "topk", "sign", "sgn", "floor", "ceil", "round", "trunc", "heaviside"})
"""Operators that return numbers, but whose result follows an order of their input, or is the same in between steps."""

EQUALITY = frozenset({"eq", "ne", "isnan", "isinf", "isfinite", "isneginf", "isposinf"})
"""Operators that return truth values, but put nothing in an order."""


def own_orders(reading: Reading, members: Sequence[tuple[str, Found]], run: Probe) -> dict[str, str]:
    """Return, for each stack in which a layer orders its own tokens, a sentence about it.

    Args:
        reading: what was read from the program.
        members: stack and occurrence of every block, attention included, of the stacks to test.
        run: runs the stacks.
    """
    made = {node for node in reading.flow.order if _makes_order(reading, node)}
    found: dict[str, str] = {}
    for stack, group in by_stack(reading, members).items() if made else ():
        for own in resolutions(reading.flow, group).values():
            for part in _layers(reading, own) if stack not in found else ():
                used = _used(part, made)
                opaque = any(aten.is_opaque(node) for node in used)
                if used and run.own_order(part, opaque=opaque):
                    found[stack] = (
                        f"from {part.entry.name} to {part.exits[0].name}, the tokens see each other in an order that "
                        f"is computed from their values ({min(used, key=lambda node: reading.flow.order[node]).name})"
                    )
                    break
    return found


def _makes_order(reading: Reading, node: fx.Node) -> bool:
    """Return whether a node turns values of tokens into whole numbers, truth values or steps, compares all pairs, or
    may do so in code that the graph does not show."""
    name, flow = aten.name(node), reading.flow
    sources = [source for source in aten.tensors(node) if flow.is_activation(source) and _holds_floats(source)]
    if not sources or name in EQUALITY:
        return False
    result = aten.value(node)
    if (
        name in STEPWISE
        or aten.is_opaque(node)
        or (result is not None and not result.is_floating_point() and not result.is_complex())
    ):
        return True
    pairs = name in ("add", "sub", "rsub") and len(sources) == 2 and node in flow.table.dims
    return pairs and all(_size(reading, source) < _size(reading, node) for source in sources)


def _holds_floats(node: fx.Node) -> bool:
    val = node.meta.get("val")
    return any(
        isinstance(one, Tensor) and one.is_floating_point() for one in (val if isinstance(val, tuple) else [val])
    )


def _size(reading: Reading, node: fx.Node) -> int:
    return math.prod(reading.flow.table.sizes(node)) if node in reading.flow.table.dims else 0


def _layers(reading: Reading, own: Sequence[Found]) -> list[Stretch]:
    """Return the stretches between the residual streams of blocks that follow each other, with those in front of the
    first and behind the last."""
    flow, first, total = reading.flow, own[0].branch.stream, own[-1].branch.total
    tokens = next(iter(resolutions(flow, own[:1])))
    assert first is not None
    streams = [one.branch.stream for one in own if one.branch.stream is not None]
    ends = [begin(reading, first, tokens), *streams, total, last_tensors(flow, total, tokens)[0]]
    held = {node: layout for node in dict.fromkeys(ends) if (layout := layout_of(flow, node, tokens)) is not None}
    nodes = sorted(held, key=lambda node: flow.order[node])
    sizes = tuple(factor.size for factor in tokens)
    return [
        Stretch(entry, (end,), {entry: held[entry], end: held[end]}, sizes) for entry, end in itertools.pairwise(nodes)
    ]


def _used(part: Stretch, made: Collection[fx.Node]) -> list[fx.Node]:
    """Return those of some nodes that a stretch uses, inside it or beside its entry."""
    queue, seen = list(part.exits), {part.entry}
    used: list[fx.Node] = []
    while queue:
        node = queue.pop()
        if node in seen:
            continue
        seen.add(node)
        used += [node] if node in made else []
        queue += node.all_input_nodes
    return used
