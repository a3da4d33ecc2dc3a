"""Running a captured program and returning the map of each attention as it is computed, one at a time.

The graph is run node by node. A fused attention is replaced: its weights are computed in float32 and then multiplied
with the values, so nothing is computed twice. Every tensor is freed after its last reader, so the memory needed is that
of one forward pass plus one map.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from cbsurgeon.graph import Program, aten, inspect_program
from cbsurgeon.graph.attention.maps.comparing import softmax_input
from cbsurgeon.graph.attention.maps.finding import find_maps
from cbsurgeon.graph.attention.maps.lead import Lead, lead_of
from cbsurgeon.graph.attention.maps.map import Map
from cbsurgeon.graph.attention.maps.scale import logit_scale
from cbsurgeon.graph.axes.table import AxisTable
from cbsurgeon.graph.axes.tracking import follow
from cbsurgeon.graph.capture.execution import flat_inputs
from cbsurgeon.graph.heads import Attention

_CASTS = frozenset({"to", "_to_copy", "type_as", "half", "bfloat16", "float", "double"})


@dataclass(frozen=True)
class Tap:
    """The nodes of a graph from which one attention's map is read.

    Attributes:
        attention: its description from ``inspect``.
        map: its nodes.
        lead: the roles (batch, window, head) of the axes before queries and keys.
        read: the input of its softmax and the axis; ``None`` for a fused attention.
        scale: the factor between the product of queries and keys and the scores.
        scale_read: whether the factor was read from the graph; otherwise the usual one is assumed.
    """

    attention: Attention
    map: Map
    lead: Lead
    read: tuple[fx.Node, int] | None
    scale: float
    scale_read: bool


class Tapped:
    """A program whose attention maps can be read.

    Args:
        program: the captured program.
        mixed: return the weights after a projection over the heads (talking heads) instead of before it.

    Attributes:
        taps: its attentions, in graph order.
    """

    def __init__(self, program: Program, *, mixed: bool = False) -> None:
        self.program = program
        flow = follow(
            program.exported.graph,
            program.input_names,
            dict(program.batch_axes) or dict.fromkeys(program.input_names, 0),
        )
        found = [one.after_mixing if mixed else one for one in find_maps(flow)]
        listed = inspect_program(program, probe=False).attentions
        # Inspection reads the program without its inserted operators. They contain no softmax, so the attentions are
        # the same.
        self.taps = [
            Tap(
                attention,
                one,
                lead_of(flow, one),
                softmax_input(flow, one.node) if not one.fused else None,
                *logit_scale(flow, one),
            )
            for attention, one in zip(listed, found, strict=True)
        ]
        self._at = {tap.map.node if tap.map.fused else tap.map.weights: tap for tap in self.taps}
        self._last = self._lifetimes()

    def _lifetimes(self) -> dict[fx.Node, list[fx.Node]]:
        """Return node → the nodes whose values are not read after it."""
        readers: dict[fx.Node, fx.Node] = {}
        for node in self.program.exported.graph.nodes:
            readers[node] = node
            for source in node.all_input_nodes:
                readers[source] = node
            tap = self._at.get(node)
            if tap is not None and tap.read is not None:  # the softmax may be recomputed in float32
                for kept in (tap.read[0], tap.map.node, *(n for way in tap.map.way for n in way.all_input_nodes)):
                    readers[kept] = node
        last: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        for node, reader in readers.items():
            last[reader].append(node)
        return last

    @torch.no_grad()
    def run(self, inputs: Mapping[str, Tensor]) -> Iterator[tuple[Tap, Tensor]]:
        """Yield the attentions with their maps, in the order of the forward pass.

        Args:
            inputs: tensors by the names of the program's inputs.

        Yields:
            an attention and its map, float32 ``[samples * windows, heads, queries, keys]``, with the windows of one
            sample consecutive. The forward pass stops after the last attention.
        """
        module = self.program.exported.graph_module
        given = iter(flat_inputs(self.program, inputs))
        values: dict[fx.Node, Any] = {}
        left = len(self.taps)
        for node in self.program.exported.graph.nodes:
            if not left or node.op == "output":
                return
            tap = self._at.get(node)
            if node.op == "placeholder":
                values[node] = next(given)
            elif node.op == "get_attr":
                values[node] = _attribute(module, str(node.target))
            elif tap is not None and tap.map.fused:
                weights, result = fused(*_arguments(node, values))
                order = _order(node)
                values[node] = result.permute(order).contiguous().permute(_inverse(order))
                left -= 1
                yield tap, canonical(weights, tap)
                del weights
            else:
                args, kwargs = _given(node, values)
                values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
                del args, kwargs
                if tap is not None:
                    left -= 1
                    yield tap, canonical(_in_float32(tap, values), tap)
            for dead in self._last.get(node, ()):
                values.pop(dead, None)


def _order(node: fx.Node) -> list[int]:
    """Return the order of the axes of a node's tensor in memory, which a later ``view`` may rely on."""
    table = AxisTable()
    strides = [table.size(stride) for stride in node.meta["val"].stride()]
    return sorted(range(len(strides)), key=lambda axis: -strides[axis])


def _inverse(order: list[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def _attribute(module: Any, target: str) -> Any:
    for name in target.split("."):
        module = getattr(module, name)
    return module


def _given(node: fx.Node, values: Mapping[fx.Node, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), values.__getitem__)
    return args, kwargs


def _arguments(node: fx.Node, values: Mapping[fx.Node, Any]) -> tuple[Any, ...]:
    """Return query, key, value, mask, causal, scale and grouped of a fused attention."""
    read = [
        aten.argument(node, position, name, default)
        for position, name, default in (
            (0, "query", None),
            (1, "key", None),
            (2, "value", None),
            (3, "attn_mask", None),
            (5, "is_causal", False),
            (6, "scale", None),
            (7, "enable_gqa", False),
        )
    ]
    return fx.map_arg(tuple(read), values.__getitem__)  # type: ignore[no-any-return]


def fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    grouped: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the weights of ``scaled_dot_product_attention`` in float32, and its result in the query's dtype.

    Args:
        query: ``[..., heads, queries, channels]``.
        key, value: ``[..., heads, keys, channels]``; with ``grouped`` there may be fewer heads.
        mask: a bias that is added, or booleans that are false for masked keys.
        causal: mask key j for query i if j > i.
        scale: factor of the scores; ``1 / sqrt(channels)`` by default.
        grouped: whether several heads of queries share a head of keys and values.
    """
    if grouped and key.shape[-3] != query.shape[-3]:
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    weights = (query.float() * factor) @ key.float().transpose(-2, -1)
    hidden: Tensor | None = None
    if causal:
        hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=weights.device).triu(1)
    if mask is not None and mask.dtype == torch.bool:
        hidden = ~mask if hidden is None else hidden | ~mask
    elif mask is not None:
        weights = weights + mask.float()
    if hidden is not None:
        weights = weights.masked_fill(hidden, -math.inf)
    weights = normalised(weights)
    return weights, (weights @ value.float()).to(query.dtype)


def normalised(scores: Tensor) -> Tensor:
    """Compute the softmax over the last axis in place; fully masked rows become zero."""
    top = scores.amax(-1, keepdim=True)
    top.masked_fill_(top == -math.inf, 0.0)
    scores.sub_(top).exp_()
    total = scores.sum(-1, keepdim=True)
    return scores.div_(total.masked_fill_(total == 0, 1.0))


def _in_float32(tap: Tap, values: Mapping[fx.Node, Any]) -> Tensor:
    """Return the weights; in half precision, the steps from the softmax on are recomputed in float32."""
    weights: Tensor = values[tap.map.weights]
    if weights.dtype in (torch.float32, torch.float64) or not tap.map.way:
        return weights.float()
    assert tap.read is not None
    start, (source, axis) = values[tap.map.node], tap.read
    if start.dtype != torch.float32:
        start = values[source].float().softmax(axis)
    result = start.clone()  # a step may write in place
    for before, node in zip(tap.map.way, tap.map.way[1:], strict=False):
        if aten.name(node) in _CASTS:
            continue
        args, kwargs = _given(node, {**values, before: result})
        result = node.target(*args, **kwargs)  # type: ignore[operator]
    return cast(Tensor, result)


def canonical(weights: Tensor, tap: Tap) -> Tensor:
    """Reorder a map to ``[samples * windows, heads, queries, keys]``."""
    one = tap.map
    if one.fused:
        lead = tuple(range(weights.dim() - 2))
        ordered = weights
    else:
        lead = one.lead
        ordered = weights.permute(*lead, one.query, one.key)
    sizes: list[int] = []
    roles: list[str] = []
    for axis, parts in enumerate(tap.lead):
        known = math.prod(part.size for part in parts if part.role != "batch")
        sizes += [part.size if part.role != "batch" else ordered.shape[axis] // known for part in parts]
        roles += [part.role for part in parts]
    positions = tuple(ordered.shape[-2:])
    split = ordered.reshape(*sizes, *positions)
    order = [axis for role in ("batch", "window", "head") for axis, own in enumerate(roles) if own == role]
    heads = math.prod(size for size, role in zip(sizes, roles, strict=True) if role == "head")
    moved = split.permute(*order, split.dim() - 2, split.dim() - 1)
    return moved.reshape(-1, heads, *positions)
