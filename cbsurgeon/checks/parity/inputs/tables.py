"""Integer inputs that index a table, such as token ids: which indices the table has, read from a captured graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, fx

from cbsurgeon.graph import Program, aten

# Operator → positions of the operands whose elements, or constants, make up its result.
_PASSES: Mapping[str, tuple[int, ...]] = {
    "clamp": (0,), "clamp_min": (0,), "clamp_max": (0,), "clip": (0,), "remainder": (0,), "masked_fill": (0,),
    "where": (1, 2), "maximum": (0, 1), "minimum": (0, 1), "abs": (0,), "pad": (0,), "constant_pad_nd": (0,),
}  # fmt: skip


def tables(program: Program) -> dict[str, range]:
    """Return integer input with a batch axis → the indices that are valid in every table it indexes."""
    found: dict[str, range] = {}
    for node in program.exported.graph.nodes:
        for indices, rows in _lookups(node):
            for name, added, _ in _origins(indices):
                if name in program.batch_axes:
                    found[name] = common(found.get(name), range(max(0, -added), rows - added))
    return {name: valid for name, valid in found.items() if valid}


def cut(program: Program) -> frozenset[str]:
    """Return the inputs of which some positions are dropped before they index a table."""
    lookups = (indices for node in program.exported.graph.nodes for indices, _ in _lookups(node))
    return frozenset(name for indices in lookups for name, _, shortened in _origins(indices) if shortened)


def common(known: range | None, new: range) -> range:
    """Return the indices in both ranges."""
    return new if known is None else range(max(known.start, new.start), min(known.stop, new.stop))


def _lookups(node: fx.Node) -> Iterator[tuple[fx.Node, int]]:
    """Yield the indices that a node looks up in a table, with the number of rows."""
    kind, args = aten.name(node), node.args
    pairs: list[tuple[Any, Any]] = []
    if kind in ("embedding", "embedding_bag", "_embedding_bag"):
        pairs = [(args[1], _size(args[0], 0))]
    elif kind in ("index_select", "gather"):
        pairs = [(args[2], _size(args[0], args[1]))]
    elif kind == "take_along_dim":
        pairs = [(args[1], _size(args[0], args[2]))] if len(args) > 2 else []
    elif kind == "one_hot":
        pairs = [(args[0], args[1] if len(args) > 1 else None)]
    elif kind == "index" and isinstance(args[1], (list, tuple)):
        pairs = [(one, _size(args[0], axis)) for axis, one in enumerate(args[1])]
    for indices, rows in pairs:
        if isinstance(indices, fx.Node) and isinstance(rows, int) and rows > 1 and _is_whole(indices):
            yield indices, rows


def _size(table: Any, axis: Any) -> Any:
    value = table.meta.get("val") if isinstance(table, fx.Node) else None
    return value.shape[axis] if isinstance(value, Tensor) and isinstance(axis, int) and value.dim() else None


def _is_whole(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and not value.is_floating_point() and str(value.dtype) != "torch.bool"


def _origins(node: fx.Node) -> Iterator[tuple[str, int, bool]]:
    """Yield the inputs that a tensor of indices is computed from.

    Each comes with the constant that is added to it, and whether some of its positions are dropped.
    """
    pending, seen = [(node, 0, False)], set()
    while pending:
        here, added, shortened = pending.pop()
        if here in seen or not _is_whole(here):
            continue
        seen.add(here)
        if here.op == "placeholder":
            yield here.name, added, shortened
        shortened = shortened or aten.name(here) in aten.CROP
        pending += [(operand, added + more, shortened) for operand, more in _operands(here)]


def _operands(node: fx.Node) -> Iterator[tuple[fx.Node, int]]:
    """Yield the operands that hold the same indices as a node, and the constant that the node adds to them."""
    kind, args = aten.name(node), node.args
    found: list[Any] = []
    if kind in _PASSES:
        found = [args[place] for place in _PASSES[kind] if place < len(args)]
    elif kind in ("cat", "concat", "stack") and isinstance(args[0], (list, tuple)):
        found = list(args[0])
    elif kind in ("add", "sub") and len(args) == 2 and not node.kwargs and isinstance(args[1], int):
        if isinstance(args[0], fx.Node):
            yield args[0], args[1] if kind == "add" else -args[1]
    elif (kind in aten.LAYOUT or kind in aten.CROP) and len(node.all_input_nodes) == 1:
        found = list(node.all_input_nodes)
    yield from ((operand, 0) for operand in found if isinstance(operand, fx.Node))
