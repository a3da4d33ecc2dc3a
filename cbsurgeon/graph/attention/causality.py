"""The causal check: which stacks have a causal mask, and which inputs are attention masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.probing.influence import Probe
from cbsurgeon.graph.attention.probing.order import Order
from cbsurgeon.graph.attention.probing.stretches import Stretch, Tokens, layout_of, stretch, tokens_of
from cbsurgeon.graph.attention.scores import NEAR, find_scores, raw_inputs
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.blocks.reading import Found, Reading
from cbsurgeon.graph.branches.steps import chain


@dataclass(frozen=True)
class Causality:
    """A stack in which tokens do not see all others.

    Attributes:
        evidence: sentences that say how this is known.
        past: earlier tokens are masked, so that a causal mean leaks as well.
    """

    evidence: tuple[str, ...]
    past: bool = False


def masks(reading: Reading) -> tuple[str, ...]:
    """Return the names of the inputs that act as attention masks, directly and not through an embedding or
    projection."""
    raw = raw_inputs(reading.flow)
    found: dict[str, None] = {}
    for one in find_scores(reading.flow, reading.flow.order):
        if one.keys:  # a softmax over anything else (a router, a classifier) masks no token
            for mask in one.masks:
                found.update(dict.fromkeys(sorted(raw.get(mask, frozenset()))))
    return tuple(found)


def causal_stacks(
    reading: Reading, members: Sequence[tuple[str, Found]], run: Probe | None, *, padded: bool = False
) -> dict[str, Causality]:
    """Return the stacks whose tokens do not see later ones (or earlier ones), with evidence.

    A stack is causal if an attention operator has ``is_causal``, and not causal if attention covers all tokens without
    a mask. Every other stack is run: some tokens are changed, and the outputs of the other tokens are compared
    (:mod:`cbsurgeon.graph.attention.probing.influence`). If that is not conclusive, a triangular mask in the graph
    decides.

    Args:
        reading: what was read from the program.
        members: stack and occurrence of every block, attention included.
        run: runs the stacks; ``None`` if the weights have no values.
        padded: the example inputs may hide the last tokens as padding, also where no attention mask shows it.
    """
    padded = padded or bool(masks(reading))
    found: dict[str, Causality] = {}
    for stack, group in by_stack(reading, members).items():
        streams = [_causal(reading, one, run, padded=padded) for one in _streams(reading, group)]
        causal = [one for one in streams if one is not None]
        if causal:
            evidence = dict.fromkeys(sentence for one in causal for sentence in one.evidence)
            found[stack] = Causality(tuple(evidence), past=any(one.past for one in causal))
    return found


def _streams(reading: Reading, group: Sequence[Found]) -> list[list[Found]]:
    """The blocks of a stack by the residual stream that they run on: shared blocks may run on several, of which one is
    causal."""
    found: dict[fx.Node, list[Found]] = {}
    begin: dict[fx.Node, fx.Node] = {}
    for one in group:
        assert one.branch.stream is not None
        origin = reading.lineage.origin(one.branch.stream)
        begin[one.branch.total] = begin.get(origin, origin)
        found.setdefault(begin[one.branch.total], []).append(one)
    return list(found.values())


def _causal(reading: Reading, group: Sequence[Found], run: Probe | None, *, padded: bool) -> Causality | None:
    """The order in which the tokens of one stream see each other, if they do not see all others."""
    declared = _declared_causal(reading, group)
    if declared:
        return Causality(declared)
    open_at = next((place for place, one in enumerate(group) if _sees_all(reading, one)), None)
    if open_at is not None:
        group = group[:open_at] if _has_own_output(group, open_at) else ()
    if not group:
        return None
    order, evidence = _probed(run, reading, group, padded=padded) if run is not None else ("unknown", "")
    if order in ("future", "past", "mixed"):
        return Causality((evidence,), past=order != "future")
    triangles = _triangles(reading, group) if order == "unknown" else ()
    return Causality(triangles) if triangles else None


def _has_own_output(group: Sequence[Found], place: int) -> bool:
    """Whether an output of the model shows the stream of some blocks before a later one mixes all its tokens."""
    if not place:
        return False
    queue, seen = [group[place - 1].branch.total], {group[place].branch.total}
    while queue:
        node = queue.pop()
        if node.op == "output":
            return True
        if node not in seen:
            seen.add(node)
            queue += node.users
    return False


def by_stack(reading: Reading, members: Sequence[tuple[str, Found]]) -> dict[str, list[Found]]:
    """Return the blocks of every stack, in the order of their residual adds."""
    found: dict[str, list[Found]] = {}
    for stack, one in sorted(members, key=lambda member: reading.flow.order[member[1].branch.total]):
        found.setdefault(stack, []).append(one)
    return found


def _declared_causal(reading: Reading, group: Sequence[Found]) -> tuple[str, ...]:
    """One sentence for each attention operator with ``is_causal``; at most three."""
    return tuple(
        f"{node.name} ({_path(reading, found)}) is called with is_causal=True"
        for found in group
        for node in found.branch.between.nodes
        if aten.name(node) == "scaled_dot_product_attention" and aten.argument(node, 5, "is_causal", False)
    )[:3]


def _triangles(reading: Reading, group: Sequence[Found]) -> tuple[str, ...]:
    """One sentence for each attention mask that the graph makes as a triangle; at most three."""
    return tuple(
        f"{triangle.name} makes a triangular mask for {_path(reading, found)}"
        for found in group
        if found.kind == "attention"
        for one in find_scores(reading.flow, found.branch.between.nodes)
        for mask in one.masks
        if (triangle := triangular(mask)) is not None
    )[:3]


def _path(reading: Reading, found: Found) -> str:
    return reading.calls.path(found.branch.last.core) or found.branch.last.core.name


def _sees_all(reading: Reading, found: Found) -> bool:
    """Whether a block is self-attention over all tokens of its stream, without a mask."""
    flow, branch = reading.flow, found.branch
    if found.kind != "attention" or branch.stream is None:
        return False
    readers = (*branch.between.firsts, *branch.between.others)
    if not readers or any(branch.stream not in chain(flow, one.source) for one in readers):
        return False
    tokens = tokens_of(flow, branch.stream)
    return tokens is not None and any(
        _unmasked(flow, node) == (tokens, tokens) and _is_kept_whole(flow, found, node, tokens)
        for node in branch.between.nodes
    )


def _is_kept_whole(flow: Flow, found: Found, node: fx.Node, tokens: Tokens) -> bool:
    """Whether the results of all queries of an attention go on: in a loop over the queries, each turn may compute all
    of them and take one."""
    inside, queue, seen = set(found.branch.between.nodes), [node], set[fx.Node]()
    while queue:
        current = queue.pop()
        if current in seen or current not in inside:
            continue
        seen.add(current)
        if current in flow.table.dims:
            own = [factor for dim in flow.of(current) for factor in flow.plain(dim)]
            if any(factor not in own for factor in tokens):
                return False
        queue += current.users
    return True


def _unmasked(flow: Flow, node: fx.Node) -> tuple[Tokens, Tokens] | None:
    """Return the axes of queries and keys of an attention without a mask or bias; ``None`` for other nodes.

    Queries and keys are both needed: in causal attention that loops over chunks of the tokens, the last chunk attends
    to all keys, but it has only some of the queries.
    """
    name = aten.name(node)
    if name == "scaled_dot_product_attention":
        query, key, mask = node.args[0], node.args[1], aten.argument(node, 3, "attn_mask")
        plain = mask is None and not aten.argument(node, 5, "is_causal", False)
        if not plain or not isinstance(query, fx.Node) or not isinstance(key, fx.Node):
            return None
        return flow.plain(flow.of(query)[-2]), flow.plain(flow.of(key)[-2])
    if name not in ("softmax", "_softmax") or aten.argument(node, 1, "dim") not in (-1, len(flow.of(node)) - 1):
        return None
    if find_scores(flow, [node]) or not _weighs_values(node):
        return None
    current = node
    for _ in range(NEAR):
        sources = aten.tensors(current)
        if aten.name(current) in aten.MATMUL:
            live = [source for source in sources if flow.is_activation(source)]
            dims = [flow.plain(dim) for dim in flow.of(current)[-2:]]
            return (dims[0], dims[1]) if len(live) == len(dims) == 2 else None
        if not sources or any(flow.is_activation(one) for one in sources[1:]):
            return None
        current = sources[0]
    return None


def _weighs_values(node: fx.Node) -> bool:
    """Return whether attention weights reach a product with the values through dropout and layout steps only."""
    for _ in range(NEAR):
        users = [user for user in node.users if aten.value(user) is not None]
        if users and all(aten.name(user) in aten.MATMUL for user in users):
            return True
        if len(users) != 1 or aten.name(users[0]) not in aten.DROPOUT | aten.LAYOUT:
            return False
        node = users[0]
    return False


def _probed(run: Probe, reading: Reading, group: Sequence[Found], *, padded: bool) -> tuple[Order, str]:
    """Run a stack; return the order in which its tokens see each other, and a sentence about it.

    The first resolution (see :func:`resolutions`) at which tokens do not see all others decides.
    """
    seen: Order = "unknown"
    for tokens, own in resolutions(reading.flow, group).items():
        first, last = own[0].branch.stream, own[-1].branch.total
        assert first is not None
        order: Order = "unknown"
        sites = any(one.kind != "attention" for one in own)
        for far in (True, False):
            part = stretch(reading, first, last, tokens, far=far)
            order = run.order(part, padded=padded, sites=sites) if part is not None and order == "unknown" else order
            if part is not None and order == "future" and _is_turned(run, reading, part, own, tokens):
                return "mixed", f"behind {part.entry.name}, a block has its tokens in another order"
            if part is not None and order in ("future", "past", "mixed"):
                return order, _sentence(part, order)
        seen = order if seen == "unknown" else seen
    return seen, ""


def _is_turned(run: Probe, reading: Reading, part: Stretch, own: Sequence[Found], tokens: Tokens) -> bool:
    """Whether the tokens of some block are in another order than those of the exits, such as flipped."""
    streams = [node for one in own for node in (one.branch.stream, one.branch.total) if node not in part.layouts]
    found = {node: one for node in streams if node is not None and (one := layout_of(reading.flow, node, tokens))}
    exits = (*found, *sorted(part.exits, key=lambda node: reading.flow.order[node]))
    return run.turned(Stretch(part.entry, exits, {**part.layouts, **found}, part.sizes))


def _sentence(part: Stretch, order: Order) -> str:
    out = ", ".join(node.name for node in part.exits)
    if order == "mixed":
        what = "some tokens see later ones that do not see them, or never influence later ones"
        return f"from {part.entry.name} to {out}, {what}"
    later, earlier = ("later", "earlier") if order == "future" else ("earlier", "later")
    return f"changing {later} tokens at {part.entry.name} changes no {earlier} token at {out}"


def resolutions(flow: Flow, group: Sequence[Found]) -> Mapping[Tokens, list[Found]]:
    """Return the blocks of a stack, grouped by the tokens of their streams (patch merging and strides change these)."""
    found: dict[Tokens, list[Found]] = {}
    for one in group:
        tokens = tokens_of(flow, one.branch.stream) if one.branch.stream is not None else None
        if tokens is not None:
            found.setdefault(tokens, []).append(one)
    return found


def triangular(mask: fx.Node) -> fx.Node | None:
    """Return a node upstream of a mask that makes a triangle: ``tril``, ``triu``, or a comparison of two ranges."""
    queue, seen = [mask], set[fx.Node]()
    while queue and len(seen) < 4 * NEAR:
        node = queue.pop()
        if node in seen:
            continue
        seen.add(node)
        name = aten.name(node)
        if name in ("tril", "triu"):
            return node
        if name in ("le", "ge", "lt", "gt") and sum(_is_range(source) for source in aten.tensors(node)) == 2:
            return node
        queue += aten.tensors(node)
    return None


def _is_range(node: fx.Node) -> bool:
    for _ in range(12):
        if aten.name(node) == "arange":
            return True
        sources = aten.tensors(node)
        if not sources or aten.name(node) not in aten.ELEMENTWISE | aten.LAYOUT | aten.CROP | {"index"}:
            return False
        node = sources[0]
    return False
