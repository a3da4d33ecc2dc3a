"""Axis rules of the operators that keep or drop axes: element-wise operators, norms, reductions.

A rule returns the dimensions of the node's result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import Dim, Dims, extent


def like_inputs(flow: Flow, node: fx.Node) -> Dims:
    """Element-wise operators, and every operator that keeps the shape of its first input."""
    sizes = flow.table.sizes(node)
    elementwise = aten.name(node) in aten.ELEMENTWISE
    sources = flow.sources(node)
    # The identity of an axis comes from activations; parameters are broadcast against them.
    sources.sort(key=lambda source: not flow.is_activation(source))
    if not elementwise:
        sources = [source for source in sources if len(flow.of(source)) == len(sizes)][:1]
    result: list[Dim] = []
    for back in range(len(sizes), 0, -1):
        found: Dim | None = None
        for source in sources:
            dims = flow.of(source)
            if back > len(dims) or not dims[-back] or extent(dims[-back]) != sizes[-back]:
                continue
            if found is None:
                found = dims[-back]
            elif flow.is_activation(source):
                flow.table.align(found, dims[-back])
        if found is None and sources and not elementwise:
            found = flow.table.resized(flow.of(sources[0])[-back], sizes[-back])
        result.append(flow.table.fresh(sizes[-back]) if found is None else found)
    if elementwise:
        _note_vectors(flow, node, result)
        _note_spelled_norm(flow, node)
    return tuple(result)


def _note_vectors(flow: Flow, node: fx.Node, dims: Sequence[Dim]) -> None:
    """Record the axes of an activation that a vector parameter scales or shifts.

    Positions (``arange``) and masks are no parameters, and comparisons neither scale nor shift.
    """
    if _is_bool(node):
        return
    for source in flow.sources(node):
        if flow.is_activation(source) or not dims or _is_bool(source) or not _holds_weights(source):
            continue
        long = [back for back, dim in enumerate(reversed(flow.of(source)), 1) if dim]
        if len(long) == 1 and long[0] <= len(dims):
            for axis in flow.table.axes(dims[-long[0]]):
                flow.table.evidence(axis).scaled += 1


def _is_bool(node: fx.Node) -> bool:
    value = aten.value(node)
    return value is not None and value.dtype == torch.bool


def _holds_weights(node: fx.Node) -> bool:
    """Whether a tensor is a parameter, a buffer or a constant, or is computed from one."""
    queue, seen = [node], set[fx.Node]()
    while queue:
        current = queue.pop()
        if current.op in ("placeholder", "get_attr"):
            return True
        if current not in seen:
            seen.add(current)
            queue += aten.tensors(current)
    return False


def _note_spelled_norm(flow: Flow, node: fx.Node) -> None:
    """Record that ``rsqrt(mean(x * x, dim) + eps)`` and similar arithmetic normalise along ``dim``."""
    if aten.name(node) not in ("rsqrt", "sqrt", "reciprocal", "pow"):
        return
    current: fx.Node = node
    for _ in range(4):
        sources = flow.sources(current)
        if not sources:
            return
        current = sources[0]
        if aten.name(current) in ("mean", "var", "var_mean"):
            dims = aten.argument(current, 1, "dim")
            if isinstance(dims, int):
                dims = [dims]
            if isinstance(dims, list | tuple) and len(dims) == 1 and flow.sources(current):
                _note_norm(flow, flow.of(flow.sources(current)[0])[dims[0]])
            return
        if aten.name(current) not in ("add", "mul", "clamp", "clamp_min", "pow", "maximum", "getitem"):
            return


def _note_norm(flow: Flow, dim: Dim) -> None:
    axes = flow.table.axes(dim)
    if len(axes) == 1:
        flow.table.evidence(axes.pop()).normalised += 1


def norm(flow: Flow, node: fx.Node) -> Dims:
    """Norms: the same axes; the normalised one is recorded."""
    dims = flow.of(flow.sources(node)[0])
    if aten.name(node) in ("layer_norm", "rms_norm", "native_layer_norm", "_fused_rms_norm"):
        shape = cast(Sequence[int], aten.argument(node, 1, "normalized_shape", [0]))
        if len(shape) == 1:
            _note_norm(flow, dims[-1])
    elif len(dims) > 1:
        _note_norm(flow, dims[1])
    return dims


def reduce(flow: Flow, node: fx.Node) -> Dims:
    """Reductions: the reduced axes removed, or kept with size 1."""
    dims, sizes = flow.of(flow.sources(node)[0]), flow.table.sizes(node)
    if len(flow.sources(node)) == 2:  # min(a, b) and max(a, b) compare two tensors
        return like_inputs(flow, node)
    where: Any = aten.argument(node, 2 if aten.name(node) in ("linalg_vector_norm", "norm") else 1, "dim")
    places = (
        {place % len(dims) for place in ([where] if isinstance(where, int) else where or range(len(dims)))}
        if dims
        else set()
    )
    if len(sizes) == len(dims):
        return tuple(() if place in places else dim for place, dim in enumerate(dims))
    return tuple(dim for place, dim in enumerate(dims) if place not in places)
