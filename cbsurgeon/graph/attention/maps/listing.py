"""List the attentions of a program for its inspection, and the reasons for those without a map."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.causality import triangular
from cbsurgeon.graph.attention.maps.comparing import SOFTMAX
from cbsurgeon.graph.attention.maps.finding import find_maps
from cbsurgeon.graph.attention.maps.keys import KeyReader
from cbsurgeon.graph.attention.maps.lead import counts
from cbsurgeon.graph.attention.maps.map import Map
from cbsurgeon.graph.attention.maps.mapless import find_mapless
from cbsurgeon.graph.attention.scores import find_scores, raw_inputs
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.block import Rejected
from cbsurgeon.graph.blocks.reading import Found, Reading
from cbsurgeon.graph.branches.steps import operands
from cbsurgeon.graph.capture.execution import values
from cbsurgeon.graph.heads import Attention, AttentionKind
from cbsurgeon.graph.program import Program
from cbsurgeon.graph.reasons import Reason

HIDDEN = -50.0
"""A constant added to scores masks a key if it is at most this: Swin adds -100, others the smallest float."""

_PICKS = frozenset("topk gather sort argsort".split())
_FAR = 400


def list_attentions(
    program: Program, reading: Reading, members: Iterable[tuple[str, Found]], causal: Collection[str], *, run: bool
) -> tuple[Attention, ...]:
    """Return every attention of a program that has a map, in graph order.

    Args:
        program: the captured program.
        reading: what was read from it.
        members: stack and occurrence of every block, attention branches included.
        causal: stacks whose tokens do not see later ones.
        run: whether the program can be run (its parameters hold values), to evaluate fixed masks.
    """
    flow = reading.flow
    found = find_maps(flow)
    stacks = {node: stack for stack, one in members for node in one.branch.between.nodes}
    reader, relation = KeyReader(flow), _Relation(flow, found)
    masks = _Masks(program, flow, found, run=run)
    listed: list[Attention] = []
    for index, one in enumerate(found):
        heads, windows = counts(flow, one)
        queries, count = position_count(flow, one.asking), position_count(flow, one.asked)
        keys = reader.read(one.asked, count)
        path = reading.calls.common(one.nodes)
        stack = next((stacks[node] for node in one.nodes if node in stacks), "") or _stack_of(path)
        kind = relation.kind(one, queries, count, windows)
        listed.append(
            Attention(
                index=index,
                stack=stack,
                path=path,
                heads=heads,
                queries=queries,
                keys=count,
                kind=kind,
                causal=masks.causal(one) or (kind == "self" and stack in causal),
                masked=masks.hides(one),
                windows=windows,
                learned=keys.learned,
                class_token=keys.class_token,
                grid=keys.grid,
                mixed=one.talking,
            )
        )
    return tuple(listed)


def reject_mapless(reading: Reading) -> None:
    """Add every attention without a map of queries by keys to the rejected candidates, with the reason."""
    details = {
        Reason.LINEAR_ATTENTION: "multiplies keys with values over all tokens before any query: no map",
        Reason.CHANNEL_ATTENTION: "weighs channels by channels: no map of queries by keys",
        Reason.PROJECTED_WEIGHTS: "makes its weights by a projection: no queries are compared with keys",
        Reason.MAP_UNDECIDED: "weighs keys, but the axes of queries and keys are lost where its weights are rearranged",
    }
    for first, last, reason in find_mapless(reading.flow, find_maps(reading.flow)):
        path = reading.calls.common([first, last])
        detail = f"{first.name} {details[reason]}"
        reading.rejected.setdefault(first, Rejected(reason, detail, (first.name, last.name), path, 1))


def position_count(flow: Flow, place: tuple[fx.Node, int]) -> int:
    """Return the number of positions along an axis."""
    return flow.table.sizes(place[0])[place[1]]


def _stack_of(path: str) -> str:
    """The part of a path before its first number."""
    parts = path.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[:number]) or "model"


class _Relation:
    """Decides the kind of an attention by whether its queries and keys come from one tensor."""

    def __init__(self, flow: Flow, found: Sequence[Map]) -> None:
        self._flow = flow
        self._closed = {node for one in found for node in (one.node, one.product)}

    def kind(self, one: Map, queries: int, keys: int, windows: int) -> AttentionKind:
        """Return the kind of an attention."""
        if windows > 1:
            return "window"
        if not self._related(one.asking.node, one.asked.node):
            return "cross"
        return "class" if queries == 1 and keys > 1 else "self"

    def _related(self, first: fx.Node, second: fx.Node) -> bool:
        live = [self._flow.is_activation(node) for node in (first, second)]
        if not all(live):  # learned queries: cross-attention, unless the keys are learned too
            return not any(live) and bool(_made_from(first) & _made_from(second))
        near = [self._before_projections(node) for node in (first, second)]
        if near[0] & near[1]:
            return True
        far = [self._upstream(nodes) for nodes in near]
        return bool(far[0] & far[1])

    def _before_projections(self, node: fx.Node) -> set[fx.Node]:
        """The inputs of the nearest projections upstream; the node itself if there is none."""
        queue, seen, found = [node], set[fx.Node](), set[fx.Node]()
        while queue and len(seen) < _FAR:
            current = queue.pop()
            if current in seen:
                continue
            seen.add(current)
            if current in self._flow.projections:
                found.add(self._flow.projections[current][0])
            else:
                queue += [source for source in aten.tensors(current) if self._flow.is_activation(source)]
        return found or {node}

    def _upstream(self, starts: Iterable[fx.Node]) -> set[fx.Node]:
        """The nodes upstream of some tensors, up to the second sum of two activations; the walk stops at an attention
        and at positions that were picked by their values."""
        queue = [(node, 0) for node in starts]
        seen: dict[fx.Node, int] = {}
        while queue and len(seen) < _FAR:
            node, sums = queue.pop()
            if seen.get(node, 9) <= sums:
                continue
            seen[node] = sums
            sums += len(operands(self._flow, node)) > 1
            if sums > 1 or node in self._closed or self._picks(node):
                continue
            queue += [(source, sums) for source in aten.tensors(node) if self._flow.is_activation(source)]
        return {node for node in seen if node.op != "placeholder"}

    def _picks(self, node: fx.Node) -> bool:
        name = aten.name(node)
        live = [source for source in aten.tensors(node) if self._flow.is_activation(source)]
        return name in _PICKS or (name in ("index", "index_select") and len(live) > 1)


def _made_from(node: fx.Node) -> set[fx.Node]:
    """The nodes upstream that compute a tensor."""
    queue, seen = [node], set[fx.Node]()
    while queue and len(seen) < _FAR:
        current = queue.pop()
        if current not in seen and current.op == "call_function":
            seen.add(current)
            queue += aten.tensors(current)
    return seen


class _Masks:
    """The attention masks of each attention."""

    def __init__(self, program: Program, flow: Flow, found: Sequence[Map], *, run: bool) -> None:
        self._flow = flow
        self._raw = raw_inputs(flow)
        read = [one.node for one in found if one.fused or aten.name(one.node) in SOFTMAX]
        self._masks = {scores.node: scores.masks for scores in find_scores(flow, read)}
        every = dict.fromkeys(mask for masks in self._masks.values() for mask in masks)
        fixed = [mask.name for mask in every if not flow.is_activation(mask)] if run else []
        self._fixed: Mapping[str, Tensor] = values(program, program.example, fixed) if fixed else {}
        self._triangles = {mask for mask in every if triangular(mask) is not None or self._is_triangle(mask)}

    def causal(self, one: Map) -> bool:
        """Whether the graph shows that later keys are masked: by ``is_causal``, or by a triangular mask."""
        told = one.fused and bool(aten.argument(one.node, 5, "is_causal", False))
        return told or any(mask in self._triangles for mask in self._masks.get(one.node, ()))

    def hides(self, one: Map) -> bool:
        """Whether keys are masked by an input, or by a fixed mask that is not triangular."""
        return any(self._hides(mask) for mask in self._masks.get(one.node, ()))

    def _hides(self, mask: fx.Node) -> bool:
        if self._raw.get(mask):
            return True
        hidden = self._hidden(mask)
        return mask not in self._triangles and hidden is not None and bool(hidden.any())

    def _is_triangle(self, mask: fx.Node) -> bool:
        """Whether a fixed mask masks exactly the later keys."""
        hidden = self._hidden(mask)
        if hidden is None or hidden.dim() < 2 or hidden.shape[-1] != hidden.shape[-2] or hidden.shape[-1] < 2:
            return False
        return bool((hidden == torch.ones_like(hidden).triu(1)).all())

    def _hidden(self, mask: fx.Node) -> Tensor | None:
        """True where a fixed mask masks keys; ``None`` for a mask that depends on the inputs."""
        fixed = self._fixed.get(mask.name)
        if fixed is None or not (fixed.dtype == torch.bool or fixed.is_floating_point()):
            return None
        return ~fixed if fixed.dtype == torch.bool else fixed <= HIDDEN
