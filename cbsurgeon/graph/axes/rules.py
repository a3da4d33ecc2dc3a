"""The table of axis rules: ATen operator → function that returns the axes of its result from those of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import Tensor, fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes import contractions as contraction
from cbsurgeon.graph.axes import layout, pointwise
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import Dims

Rule = Callable[[Flow, fx.Node], Dims]


def _unknown(flow: Flow, node: fx.Node) -> Dims:
    return tuple(flow.table.fresh(size) for size in flow.table.sizes(node))


def split(flow: Flow, node: fx.Node, values: Sequence[Any]) -> list[Dims]:
    """Return the dimensions of each result of an operator that returns several."""
    sources = flow.sources(node)
    result: list[Dims] = []
    for val in values:
        if not isinstance(val, Tensor):
            result.append(())
            continue
        sizes = tuple(flow.table.size(dim) for dim in val.shape)
        dims = flow.of(sources[0]) if sources else ()
        if aten.name(node) == "unbind" and sources:
            place = cast(int, aten.argument(node, 1, "dim", 0)) % len(dims)
            dims = (*dims[:place], *dims[place + 1 :])
        if aten.name(node) in aten.REDUCE and len(dims) != len(sizes):
            dims = ()
        if len(dims) == len(sizes):
            result.append(tuple(flow.table.resized(dim, size) for dim, size in zip(dims, sizes, strict=True)))
        else:
            result.append(tuple(flow.table.fresh(size) for size in sizes))
    return result


def _table(*entries: tuple[str | frozenset[str], Rule]) -> dict[str, Rule]:
    return {name: rule for names, rule in entries for name in (names.split() if isinstance(names, str) else names)}


RULES: dict[str, Rule] = _table(
    (aten.NORM, pointwise.norm),
    ("permute", layout.permute),
    ("transpose t numpy_T mT", layout.transpose),
    ("movedim", layout.movedim),
    ("view reshape _unsafe_view flatten unflatten view_as reshape_as", layout.view),
    ("expand expand_as", layout.expand),
    ("unsqueeze", layout.unsqueeze),
    ("squeeze", layout.squeeze),
    ("select", layout.select),
    ("repeat tile repeat_interleave", layout.repeat),
    (
        "glu slice narrow constant_pad_nd pad reflection_pad2d replication_pad2d",
        layout.same_rank,
    ),
    (aten.FOURIER, layout.same_rank),
    (aten.POOL, layout.pool),
    (aten.REDUCE, pointwise.reduce),
    ("cat concat concatenate", layout.cat),
    ("stack", layout.stack),
    ("linear", contraction.linear),
    ("addmm", contraction.addmm),
    ("matmul bmm mm baddbmm", contraction.matmul),
    ("einsum", contraction.einsum),
    ("scaled_dot_product_attention", contraction.attention),
    ("linalg_solve_triangular linalg_solve cholesky_solve linalg_lu_solve", contraction.solved),
    ("embedding", contraction.embedding),
    (aten.CONVOLUTION, contraction.convolution),
    ("index", layout.index),
    ("index_select gather take_along_dim", layout.picked),
    ("unfold", layout.unfold),
    ("im2col", layout.im2col),
    ("pixel_shuffle pixel_unshuffle col2im", _unknown),
)
"""Operator name → axis rule; every other operator keeps the axes of its inputs, as far as the shapes allow."""
