"""Axis rules of the ATen operators: how each one carries the factors of its inputs to its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx

from cbsurgeon.graph import ops
from cbsurgeon.graph.axes import BATCH, Dim, Dims, extent

if TYPE_CHECKING:
    from cbsurgeon.graph.flow import Flow

Rule = Callable[["Flow", fx.Node], Dims]


def like_inputs(flow: Flow, node: fx.Node) -> Dims:
    """Element-wise steps, and every operator that keeps the shape of its first input."""
    sizes = flow.table.sizes(node)
    elementwise = ops.name(node) in ops.ELEMENTWISE
    sources = flow.sources(node)
    # Activations say what an axis is; parameters are laid over them.
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
    """A parameter with one long axis, laid over an activation, scales or shifts that axis."""
    for source in flow.sources(node):
        if flow.is_activation(source) or not dims:
            continue
        long = [back for back, dim in enumerate(reversed(flow.of(source)), 1) if dim]
        if len(long) == 1 and long[0] <= len(dims):
            for axis in flow.table.axes(dims[-long[0]]):
                flow.table.evidence(axis).scaled += 1


def _note_spelled_norm(flow: Flow, node: fx.Node) -> None:
    """``rsqrt(mean(x * x, dim) + eps)`` and its kin normalise along ``dim``."""
    if ops.name(node) not in ("rsqrt", "sqrt", "reciprocal", "pow"):
        return
    current: fx.Node = node
    for _ in range(4):
        sources = flow.sources(current)
        if not sources:
            return
        current = sources[0]
        if ops.name(current) in ("mean", "var", "var_mean"):
            dims = ops.argument(current, 1, "dim")
            if isinstance(dims, int):
                dims = [dims]
            if isinstance(dims, list | tuple) and len(dims) == 1 and flow.sources(current):
                _note_norm(flow, flow.of(flow.sources(current)[0])[dims[0]])
            return
        if ops.name(current) not in ("add", "mul", "clamp", "clamp_min", "pow", "maximum", "getitem"):
            return


def _note_norm(flow: Flow, dim: Dim) -> None:
    axes = flow.table.axes(dim)
    if len(axes) == 1:
        flow.table.evidence(axes.pop()).normalised += 1


def _norm(flow: Flow, node: fx.Node) -> Dims:
    dims = flow.of(flow.sources(node)[0])
    if ops.name(node) in ("layer_norm", "rms_norm", "native_layer_norm", "_fused_rms_norm"):
        shape = cast(Sequence[int], ops.argument(node, 1, "normalized_shape", [0]))
        if len(shape) == 1:
            _note_norm(flow, dims[-1])
    elif len(dims) > 1:
        _note_norm(flow, dims[1])
    return dims


def _permute(flow: Flow, node: fx.Node) -> Dims:
    dims = flow.of(flow.sources(node)[0])
    order = cast(Sequence[int], ops.argument(node, 1, "dims"))
    return tuple(dims[i] for i in order)


def _transpose(flow: Flow, node: fx.Node) -> Dims:
    dims = list(flow.of(flow.sources(node)[0]))
    if ops.name(node) in ("t", "numpy_T", "mT", "transpose") and len(node.args) < 3:
        if len(dims) >= 2:
            dims[-1], dims[-2] = dims[-2], dims[-1]
        return tuple(dims)
    first, second = cast(int, node.args[1]), cast(int, node.args[2])
    dims[first], dims[second] = dims[second], dims[first]
    return tuple(dims)


def _movedim(flow: Flow, node: fx.Node) -> Dims:
    dims = flow.of(flow.sources(node)[0])
    source, target = node.args[1], node.args[2]
    numbered = torch.empty(tuple(range(1, len(dims) + 1)), device="meta")  # the size of an axis is its number
    return tuple(dims[size - 1] for size in torch.movedim(numbered, source, target).shape)  # type: ignore[arg-type]


def _view(flow: Flow, node: fx.Node) -> Dims:
    dims = flow.of(flow.sources(node)[0])
    return flow.table.regroup([factor for dim in dims for factor in dim], flow.table.sizes(node))


def _expand(flow: Flow, node: fx.Node) -> Dims:
    dims, sizes = flow.of(flow.sources(node)[0]), flow.table.sizes(node)
    lead = len(sizes) - len(dims)
    padded = ((),) * lead + dims
    return tuple(dim if dim else flow.table.fresh(size) for dim, size in zip(padded, sizes, strict=True))


def _unsqueeze(flow: Flow, node: fx.Node) -> Dims:
    dims = flow.of(flow.sources(node)[0])
    place = cast(int, node.args[1]) % (len(dims) + 1)
    return (*dims[:place], (), *dims[place:])


def _squeeze(flow: Flow, node: fx.Node) -> Dims:
    dims, rank = flow.of(flow.sources(node)[0]), len(flow.table.sizes(node))
    where = ops.argument(node, 1, "dim")
    if where is None:
        return tuple(dim for dim in dims if dim)
    places = {place % len(dims) for place in ([where] if isinstance(where, int) else cast(Sequence[int], where))}
    kept = tuple(dim for place, dim in enumerate(dims) if place not in places or dim)
    return kept if len(kept) == rank else tuple(dim for dim in dims if dim)


def _select(flow: Flow, node: fx.Node) -> Dims:
    dims = flow.of(flow.sources(node)[0])
    place = cast(int, node.args[1]) % len(dims)
    return (*dims[:place], *dims[place + 1 :])


def _repeat(flow: Flow, node: fx.Node) -> Dims:
    dims, sizes = flow.of(flow.sources(node)[0]), flow.table.sizes(node)
    padded = ((),) * (len(sizes) - len(dims)) + dims
    return tuple(flow.table.resized(dim, size) for dim, size in zip(padded, sizes, strict=True))


def _same_rank(flow: Flow, node: fx.Node) -> Dims:
    """Slices, pads, pools, index selections: the axes stay, their sizes may change."""
    dims, sizes = flow.of(flow.sources(node)[0]), flow.table.sizes(node)
    if len(dims) != len(sizes):
        return tuple(flow.table.fresh(size) for size in sizes)
    return tuple(flow.table.resized(dim, size) for dim, size in zip(dims, sizes, strict=True))


def _pool(flow: Flow, node: fx.Node) -> Dims:
    _note_slid(flow, flow.of(flow.sources(node)[0])[2:])
    return _same_rank(flow, node)


def _note_slid(flow: Flow, dims: Sequence[Dim]) -> None:
    for dim in dims:
        for axis in flow.table.axes(dim):
            if axis != BATCH:
                flow.table.evidence(axis).slid += 1


def _reduce(flow: Flow, node: fx.Node) -> Dims:
    dims, sizes = flow.of(flow.sources(node)[0]), flow.table.sizes(node)
    if len(flow.sources(node)) == 2:  # min(a, b) and max(a, b) compare two tensors
        return like_inputs(flow, node)
    where: Any = ops.argument(node, 2 if ops.name(node) in ("linalg_vector_norm", "norm") else 1, "dim")
    places = (
        {place % len(dims) for place in ([where] if isinstance(where, int) else where or range(len(dims)))}
        if dims
        else set()
    )
    if len(sizes) == len(dims):
        return tuple(() if place in places else dim for place, dim in enumerate(dims))
    return tuple(dim for place, dim in enumerate(dims) if place not in places)


def _cat(flow: Flow, node: fx.Node) -> Dims:
    parts = [source for source in flow.sources(node) if flow.of(source)]
    sizes = flow.table.sizes(node)
    where = cast(int, ops.argument(node, 1, "dim", 0)) % len(sizes)
    parts = [source for source in parts if len(flow.of(source)) == len(sizes)]
    parts.sort(key=lambda source: not flow.is_activation(source))
    result: list[Dim] = []
    for place, size in enumerate(sizes):
        dims = [flow.of(source)[place] for source in parts if flow.of(source)[place]]
        first = dims[0] if dims else ()
        for other, source in zip(dims[1:], parts[1:], strict=False):
            if flow.is_activation(source) and len(first) == len(other) == 1:
                flow.table.join(first[0].axis, other[0].axis)
        result.append(flow.table.resized(first, size) if place == where else (first or flow.table.fresh(size)))
    return tuple(result)


def _stack(flow: Flow, node: fx.Node) -> Dims:
    sources, sizes = flow.sources(node), flow.table.sizes(node)
    where = cast(int, ops.argument(node, 1, "dim", 0)) % len(sizes)
    dims = flow.of(sources[0])
    return (*dims[:where], flow.table.fresh(sizes[where]), *dims[where:])


def _linear(flow: Flow, node: fx.Node) -> Dims:
    source, weight = cast(fx.Node, node.args[0]), cast(fx.Node, node.args[1])
    return _contract(flow, node, source, weight, len(flow.of(source)) - 1)


def _addmm(flow: Flow, node: fx.Node) -> Dims:
    return _contract(flow, node, cast(fx.Node, node.args[1]), cast(fx.Node, node.args[2]), 1)


def _contract(flow: Flow, node: fx.Node, source: fx.Node, weight: fx.Node, place: int) -> Dims:
    """A projection of the last axis: everything before it stays, a new feature axis appears."""
    dims = flow.of(source)
    flow.projections[node] = (source, weight, dims[place])
    _note_contracted(flow, dims[place])
    return (*dims[:-1], flow.table.fresh(flow.table.sizes(node)[-1], feature=True))


def _note_contracted(flow: Flow, dim: Dim) -> None:
    axes = flow.table.axes(dim)
    if len(axes) == 1 and BATCH not in axes:
        flow.table.evidence(axes.pop()).contracted += 1


def _matmul(flow: Flow, node: fx.Node) -> Dims:
    operands = flow.sources(node)[:2] if ops.name(node) != "baddbmm" else flow.sources(node)[1:3]
    if len(operands) == 1:
        operands = operands * 2
    left, right = operands
    a, b, sizes = flow.of(left), flow.of(right), flow.table.sizes(node)
    if len(a) < 2 or len(b) < 2:
        return like_inputs(flow, node) if len(a) == len(sizes) else tuple(flow.table.fresh(size) for size in sizes)
    if flow.is_activation(left) and not flow.is_activation(right):
        flow.projections[node] = (left, right, a[-1])
        _note_contracted(flow, a[-1])
        return (*_broadcast(flow, a[:-2], b[:-2]), a[-2], flow.table.fresh(sizes[-1], feature=True))
    if flow.is_activation(right) and not flow.is_activation(left):
        flow.projections[node] = (right, left, b[-2])
        _note_contracted(flow, b[-2])
        return (*_broadcast(flow, b[:-2], a[:-2]), flow.table.fresh(sizes[-2], feature=True), b[-1])
    flow.table.align(a[-1], b[-2])
    return (*_broadcast(flow, a[:-2], b[:-2]), a[-2], b[-1])


def _broadcast(flow: Flow, first: Dims, second: Dims) -> Dims:
    rank = max(len(first), len(second))
    a = ((),) * (rank - len(first)) + first
    b = ((),) * (rank - len(second)) + second
    for x, y in zip(a, b, strict=True):
        flow.table.align(x, y)
    return tuple(x or y for x, y in zip(a, b, strict=True))


def _einsum(flow: Flow, node: fx.Node) -> Dims:
    equation = cast(str, node.args[0]).replace(" ", "")
    operands, sizes = flow.sources(node), flow.table.sizes(node)
    if "." in equation or "->" not in equation or len(operands) != 2:
        return tuple(flow.table.fresh(size) for size in sizes)
    left, out = equation.split("->")
    terms = left.split(",")
    seen: dict[str, Dim] = {}
    held: dict[str, list[bool]] = {}
    ranked = sorted(zip(terms, operands, strict=True), key=lambda pair: not flow.is_activation(pair[1]))
    for term, operand in ranked:
        active = flow.is_activation(operand)
        for letter, dim in zip(term, flow.of(operand), strict=True):
            held.setdefault(letter, []).append(active)
            if letter not in seen:
                seen[letter] = (
                    dim
                    if active or not flow.is_activation(ranked[0][1])
                    else flow.table.fresh(extent(dim), feature=True)
                )
            elif active:
                flow.table.align(seen[letter], dim)
    gone = [letter for letter, who in held.items() if letter not in out and who == [True, False]]
    if len(gone) == 1:
        flow.projections[node] = (ranked[0][1], ranked[1][1], seen[gone[0]])
        _note_contracted(flow, seen[gone[0]])
    return tuple(seen[letter] for letter in out)


def _attention(flow: Flow, node: fx.Node) -> Dims:
    query, key, val = (flow.of(cast(fx.Node, arg)) for arg in node.args[:3])
    flow.table.align(query[-1], key[-1])
    flow.table.align(key[-2], val[-2])
    return (*query[:-1], val[-1])


def _embedding(flow: Flow, node: fx.Node) -> Dims:
    index = flow.of(cast(fx.Node, node.args[1]))
    return (*index, flow.table.fresh(flow.table.sizes(node)[-1], feature=True))


def _conv(flow: Flow, node: fx.Node) -> Dims:
    source, weight = cast(fx.Node, node.args[0]), cast(fx.Node, node.args[1])
    dims, sizes = flow.of(source), flow.table.sizes(node)
    if len(dims) != len(sizes):
        return tuple(flow.table.fresh(size) for size in sizes)
    kernel = flow.table.sizes(weight)[2:]
    spatial = tuple(flow.table.resized(dim, size) for dim, size in zip(dims[2:], sizes[2:], strict=True))
    if any(size > 1 for size in kernel):
        _note_slid(flow, dims[2:])
    if is_depthwise(flow, node):
        return (dims[0], flow.table.resized(dims[1], sizes[1]), *spatial)
    flow.projections[node] = (source, weight, dims[1])
    _note_contracted(flow, dims[1])
    return (dims[0], flow.table.fresh(sizes[1], feature=True), *spatial)


def groups(node: fx.Node) -> int:
    """Number of groups of a convolution."""
    return cast(int, ops.argument(node, 8 if ops.name(node) == "convolution" else 6, "groups", 1))


def is_depthwise(flow: Flow, node: fx.Node) -> bool:
    """A convolution that keeps channels apart (one group a channel)."""
    channels = flow.table.sizes(cast(fx.Node, node.args[0]))[1]
    return groups(node) == channels and channels > 1


def _index(flow: Flow, node: fx.Node) -> Dims:
    """Advanced indexing: axes before and after the indexed ones are kept when their number still fits."""
    sizes = flow.table.sizes(node)
    dims = flow.of(flow.sources(node)[0])
    indices = cast(Sequence[object], node.args[1])
    indexed = [place for place, index in enumerate(indices) if index is not None]
    if len(indexed) == 1 and indexed[0] < len(dims):
        place = indexed[0]
        new = len(sizes) - (len(dims) - 1)
        if new >= 0:
            middle = sizes[place : place + new]
            grown = (flow.table.resized(dims[place], middle[0]),) if new == 1 else tuple(map(flow.table.fresh, middle))
            return (*dims[:place], *grown, *dims[place + 1 :])
    return tuple(flow.table.fresh(size) for size in sizes)


def _unfold(flow: Flow, node: fx.Node) -> Dims:
    dims, sizes = flow.of(flow.sources(node)[0]), flow.table.sizes(node)
    place = cast(int, node.args[1]) % len(dims)
    window = flow.table.resized(dims[place], sizes[-1])
    return (*dims[:place], flow.table.resized(dims[place], sizes[place]), *dims[place + 1 :], window)


def _im2col(flow: Flow, node: fx.Node) -> Dims:
    """Patches of an image: channels and the positions inside a patch in one axis, the patches in another."""
    dims, sizes = flow.of(flow.sources(node)[0]), flow.table.sizes(node)
    kernel = cast(Sequence[int], node.args[1])
    inside = tuple(factor for size in kernel for factor in flow.table.fresh(size))
    return (dims[0], (*dims[1], *inside), flow.table.fresh(sizes[2]))


def _unknown(flow: Flow, node: fx.Node) -> Dims:
    return tuple(flow.table.fresh(size) for size in flow.table.sizes(node))


def split(flow: Flow, node: fx.Node, values: Sequence[Any]) -> list[Dims]:
    """Operators that return lists: pieces of the first input, or shape-keeping results."""
    sources = flow.sources(node)
    result: list[Dims] = []
    for val in values:
        if not isinstance(val, Tensor):
            result.append(())
            continue
        sizes = tuple(flow.table.size(dim) for dim in val.shape)
        dims = flow.of(sources[0]) if sources else ()
        if ops.name(node) == "unbind" and sources:
            place = cast(int, ops.argument(node, 1, "dim", 0)) % len(dims)
            dims = (*dims[:place], *dims[place + 1 :])
        if ops.name(node) in ops.REDUCE and len(dims) != len(sizes):
            dims = ()
        if len(dims) == len(sizes):
            result.append(tuple(flow.table.resized(dim, size) for dim, size in zip(dims, sizes, strict=True)))
        else:
            result.append(tuple(flow.table.fresh(size) for size in sizes))
    return result


def _table(*entries: tuple[str | frozenset[str], Rule]) -> dict[str, Rule]:
    return {name: rule for names, rule in entries for name in (names.split() if isinstance(names, str) else names)}


RULES: dict[str, Rule] = _table(
    (ops.NORM, _norm),
    ("permute", _permute),
    ("transpose t numpy_T mT swapaxes swapdims", _transpose),
    ("movedim moveaxis", _movedim),
    ("view reshape _unsafe_view flatten unflatten view_as reshape_as", _view),
    ("expand expand_as", _expand),
    ("unsqueeze", _unsqueeze),
    ("squeeze", _squeeze),
    ("select", _select),
    ("repeat tile repeat_interleave", _repeat),
    (
        "glu slice narrow constant_pad_nd pad index_select gather take_along_dim reflection_pad2d replication_pad2d",
        _same_rank,
    ),
    (ops.FOURIER, _same_rank),
    (ops.POOL, _pool),
    (ops.REDUCE, _reduce),
    ("cat concat concatenate", _cat),
    ("stack", _stack),
    ("linear", _linear),
    ("addmm", _addmm),
    ("matmul bmm mm baddbmm", _matmul),
    ("einsum", _einsum),
    ("scaled_dot_product_attention", _attention),
    ("embedding", _embedding),
    (ops.CONVOLUTION, _conv),
    ("index", _index),
    ("unfold", _unfold),
    ("im2col", _im2col),
    ("pixel_shuffle pixel_unshuffle col2im", _unknown),
)
"""Operator name → axis rule; everything else keeps the axes of its inputs where the shapes allow it."""
