"""Orders in which the tokens of a stack see another sequence, while they do not see each other.

For instance, queries that are positions read the embedded words before them, or all words but their own. A mean over
such tokens shows each of them what the others have read.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.causality import Causality, by_stack, resolutions
from cbsurgeon.graph.attention.probing.influence import Probe
from cbsurgeon.graph.attention.probing.order import Order
from cbsurgeon.graph.attention.probing.stretches import Stretch, is_float, stretch
from cbsurgeon.graph.axes.table import BATCH
from cbsurgeon.graph.blocks.reading import Found, Reading


def memory_orders(reading: Reading, members: Sequence[tuple[str, Found]], run: Probe) -> dict[str, Causality]:
    """Return the stacks whose tokens see different parts of another sequence, and not each other.

    Args:
        reading: what was read from the program.
        members: stack and occurrence of every block, attention included, of the stacks to test.
        run: runs the stacks.
    """
    found: dict[str, Causality] = {}
    for stack, group in by_stack(reading, members).items():
        for tokens, own in resolutions(reading.flow, group).items():
            stream, total = own[0].branch.stream, own[-1].branch.total
            assert stream is not None
            part = stretch(reading, stream, total, tokens, far=False) if stack not in found else None
            memories = _memories(reading, part) if part is not None else []
            if part is None or not memories or not run.apart(part):
                continue
            for memory in memories:
                order = _order(reading, run, part, memory)
                if order != "open":
                    more = f"each sees more of {memory.name} than the one before"
                    what = more if order == "future" else f"see different parts of {memory.name}"
                    sentence = f"the tokens at {part.exits[-1].name} do not see each other, and {what}"
                    found[stack] = Causality((sentence,), past=order == "mixed")
                    break
    return found


def _memories(reading: Reading, part: Stretch) -> list[fx.Node]:
    """Return the tensor from which all that reaches a stretch beside its entry is computed; or else what reaches it."""
    flow, inside = reading.flow, {part.entry}
    for node in list(flow.order)[flow.order[part.entry] + 1 :]:
        if inside.intersection(node.all_input_nodes):
            inside.add(node)
    beside, queue, seen = dict[fx.Node, None](), [part.exits[-1]], {part.entry}
    while queue:
        node = queue.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in inside:
            queue += node.all_input_nodes
        elif _is_sequence(reading, node):
            beside[node] = None
    if not beside:
        return []
    common = set.intersection(*(_ancestors(reading, node) for node in beside))
    return [max(common, key=lambda node: flow.order[node])] if common else list(beside)[:2]


def _ancestors(reading: Reading, node: fx.Node) -> set[fx.Node]:
    """The sequences that a node is computed from, and the node itself."""
    queue, seen = [node], set[fx.Node]()
    while queue:
        current = queue.pop()
        if current not in seen:
            seen.add(current)
            queue += aten.tensors(current)
    return {one for one in seen if _is_sequence(reading, one)}


def _is_sequence(reading: Reading, node: fx.Node) -> bool:
    """Whether a node is a floating-point tensor that depends on the inputs and has two axes besides samples."""
    flow = reading.flow
    return flow.is_activation(node) and is_float(node) and len(_axes(reading, node)) > 1


def _axes(reading: Reading, node: fx.Node) -> list[int]:
    flow = reading.flow
    if node not in flow.table.dims:
        return []
    sizes = zip(flow.of(node), flow.table.sizes(node), strict=True)
    return [axis for axis, (dim, size) in enumerate(sizes) if size > 1 and all(one.axis != BATCH for one in dim)]


def _order(reading: Reading, run: Probe, part: Stretch, memory: fx.Node) -> Order:
    """Return the order in which tokens see a sequence.

    Args:
        reading: what was read from the program.
        run: runs the stack.
        part: the stretch whose last exit holds the tokens.
        memory: the sequence.

    Returns:
        ``future`` if each token sees all that an earlier one sees, and some more; ``mixed`` if this is so for other
        orders, or if a token sees all but one; else ``open``.
    """
    opaque = _is_opaque(part, memory)
    for axis in _axes(reading, memory):
        seen = run.read(part, memory, axis, opaque=opaque)
        if seen is None:
            return "open"
        ahead = (~seen[:, None] | seen[None]).all(dim=2)  # [i, j]: token j sees all that token i sees
        if bool((ahead & ahead.T).all()):
            continue
        if bool((ahead | ahead.T).all()):
            return "future" if bool(ahead.triu().logical_or(~ahead.new_ones(ahead.shape).triu()).all()) else "mixed"
        if bool(((~seen).sum(dim=1) == 1).all()) and bool((~seen).any(dim=0).sum() == len(seen)):
            return "mixed"
    return "open"


def _is_opaque(part: Stretch, memory: fx.Node) -> bool:
    """Whether the tokens are computed from a sequence by code that the graph does not show."""
    queue, seen = [part.exits[-1]], {memory, part.entry}
    while queue:
        node = queue.pop()
        if node not in seen:
            seen.add(node)
            if aten.is_opaque(node):
                return True
            queue += node.all_input_nodes
    return False
