"""Tensors with a token axis that reach a stretch beside its entry."""

from __future__ import annotations

from collections.abc import Container

from torch import fx

from cbsurgeon.graph.attention.probing.stretches import Stretch, Tokens
from cbsurgeon.graph.attention.scores import raw_inputs
from cbsurgeon.graph.blocks.reading import Reading


def beside(reading: Reading, part: Stretch, tokens: Tokens, known: Container[str], given: fx.Node | None = None) -> str:
    """Return the name of a node that depends on an input, has a token axis and reaches a stretch beside its entry.

    Args:
        reading: what was read from the program.
        part: the stretch.
        tokens: its tokens.
        known: the inputs that are known padding masks; a node that is computed from these alone does not count.
        given: the input; any by default.

    Returns:
        the name; empty if there is no such node.
    """
    flow, raw = reading.flow, raw_inputs(reading.flow)
    inside, needed = {part.entry}, set(part.exits)
    reached = _reached(reading, given) if given is not None else flow.depends
    for node in list(flow.order)[flow.order[part.entry] + 1 :]:
        if inside.intersection(node.all_input_nodes):
            inside.add(node)
    for node in reversed(flow.order):
        if node in needed and node in inside and node is not part.entry:
            needed.update(node.all_input_nodes)
            for source in node.all_input_nodes:
                masks = bool(raw.get(source)) and all(name in known for name in raw[source])
                if source not in inside and source in reached and not masks and _holds_tokens(reading, source, tokens):
                    return str(source.name)
    return ""


def _holds_tokens(reading: Reading, node: fx.Node, tokens: Tokens) -> bool:
    flow = reading.flow
    if not flow.is_activation(node) or node not in flow.table.dims:
        return False
    return any(factor in tokens for dim in flow.of(node) for factor in flow.plain(dim))


def _reached(reading: Reading, given: fx.Node) -> set[fx.Node]:
    found = {given}
    for node in list(reading.flow.order)[reading.flow.order[given] + 1 :]:
        if found.intersection(node.all_input_nodes):
            found.add(node)
    return found
