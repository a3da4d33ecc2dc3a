"""Finding Context Broadcasting in a graph by the formula it computes: ``0.5 * x + 0.5 * mean(x)``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from cbsurgeon.graph.occupants import Membership, membership
from cbsurgeon.operators import Operator

aten = torch.ops.aten

# Operators that return their first operand unchanged in evaluation mode.
_IDENTITIES = {
    aten.clone.default,
    aten.contiguous.default,
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
}
_DROPOUTS = {aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default}
# Operators that move values without changing them.
_LAYOUTS = {
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.permute.default,
    aten.transpose.int,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.movedim.int,
    aten.movedim.intlist,
    aten.slice.Tensor,
    aten.roll.default,
}
_CASTS = {aten.to.dtype, aten._to_copy.default}


@dataclass(frozen=True)
class Broadcast:
    """One Context Broadcasting in the graph.

    Attributes:
        x: its input.
        result: the node that holds its result.
        mean: the token mean as it enters the sum (after the cast back to the input's type, if there is one).
        reduction: the ``mean`` operator itself.
        axes: token axes, non-negative.
        inner: nodes that belong to it, in graph order.
        site: its site, as shown in reports.
    """

    x: fx.Node
    result: fx.Node
    mean: fx.Node
    reduction: fx.Node
    axes: tuple[int, ...]
    inner: tuple[fx.Node, ...]
    site: str


def broadcasts(graph: fx.Graph) -> Iterator[Broadcast]:
    """Yield every Context Broadcasting in a graph, inserted or part of the model, in graph order."""
    for node in graph.nodes:
        found = _half_sum(node) or _half_of_sum(node)
        if found is not None:
            yield found


def _half_sum(node: fx.Node) -> Broadcast | None:
    """Match ``0.5 * x + 0.5 * mean(x)``."""
    if node.target != aten.add.Tensor or node.kwargs.get("alpha", 1) != 1 or len(node.args) != 2:
        return None
    for half, scaled in (node.args, node.args[::-1]):
        x, mean = halved(half), halved(scaled)
        reduction = reduced(mean)
        if x is None or mean is None or reduction is None or reduction[0] is not x:
            continue
        return _broadcast(node, x, mean, reduction, (half, scaled))
    return None


def _half_of_sum(node: fx.Node) -> Broadcast | None:
    """Match ``(x + mean(x)) * 0.5``, as other code writes it."""
    total = halved(node)
    if total is None or total.target != aten.add.Tensor or len(total.args) != 2 or len(total.users) != 1:
        return None
    for x, mean in (total.args, total.args[::-1]):
        reduction = reduced(mean)
        if reduction is not None and isinstance(x, fx.Node) and reduction[0] is x and isinstance(mean, fx.Node):
            return _broadcast(node, x, mean, reduction, (total,))
    return None


def _broadcast(
    result: fx.Node,
    x: fx.Node,
    mean: fx.Node,
    reduction: tuple[fx.Node, fx.Node, tuple[int, ...]],
    others: tuple[Any, ...],
) -> Broadcast | None:
    _, node, axes = reduction
    inner = {mean, node, *(other for other in others if isinstance(other, fx.Node)), result}
    inner |= {operand for operand in node.all_input_nodes if operand is not x}
    if any(user not in inner for part in inner - {result} for user in part.users):
        return None  # a node outside the pattern reads an intermediate value
    ordered = tuple(sorted(inner))
    inserted = membership(result)
    return Broadcast(x, result, mean, node, axes, ordered, inserted.path if inserted else result.name)


def halved(node: Any) -> fx.Node | None:
    """Return the operand of a multiplication by one half, else ``None``."""
    if not isinstance(node, fx.Node) or len(node.args) != 2:
        return None
    first, second = node.args
    if node.target == aten.mul.Tensor:
        if second == 0.5 and isinstance(first, fx.Node):
            return first
        return second if first == 0.5 and isinstance(second, fx.Node) else None
    if node.target == aten.div.Tensor and second == 2 and isinstance(first, fx.Node):
        return first
    return None


def reduced(node: Any) -> tuple[fx.Node, fx.Node, tuple[int, ...]] | None:
    """Return source, reduction node and axes of a ``keepdim`` mean, looking through casts; else ``None``."""
    if not isinstance(node, fx.Node):
        return None
    inner = node.args[0] if node.target in _CASTS else node
    if (
        not isinstance(inner, fx.Node)
        or inner.target != aten.mean.dim
        or len(inner.args) < 3
        or inner.args[2] is not True
    ):
        return None
    source, axes = inner.args[0], inner.args[1]
    if isinstance(source, fx.Node) and source.target in _CASTS and node is not inner:
        source = source.args[0]
    if not isinstance(source, fx.Node) or not isinstance(axes, (list, tuple)) or inner.kwargs.get("dtype"):
        return None
    rank = value(source).dim()
    return source, inner, tuple(sorted(axis % rank for axis in axes if isinstance(axis, int)))


def value(node: fx.Node) -> Tensor:
    """Return the fake tensor in a node's metadata."""
    found = node.meta["val"]
    assert isinstance(found, Tensor)
    return found


def identity_source(node: fx.Node) -> fx.Node | None:
    """Return the operand of an operator that is the identity in evaluation mode, else ``None``."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    if node.target in _IDENTITIES:
        return node.args[0]
    if node.target in _DROPOUTS and (node.args[2] is False or node.args[1] == 0.0):
        return node.args[0]
    return None


def layout_source(node: fx.Node) -> fx.Node | None:
    """Return the operand of an operator that is the identity or changes only the layout, else ``None``."""
    if node.op == "call_function" and node.target in _LAYOUTS and isinstance(node.args[0], fx.Node):
        return node.args[0]
    return identity_source(node)


def why_left(one: Membership) -> str:
    """Return the reason why an operator other than plain CB is not folded."""
    kind = one.kind or Operator
    return kind.folding(**one.mark.get("options", {})).reason or "its nodes are not the plain average it describes"
