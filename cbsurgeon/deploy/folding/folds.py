"""Exact rewrites that make inserted Context Broadcasting cheaper.

``0.5 * x + 0.5 * mean(x)`` with ``x = W z + b`` equals ``x' + mean(x')`` with ``x' = (W / 2) z + b / 2``. Halving is
exact in floating point, so this removes two multiplications per site. An operator before the down projection (Mid) is
first moved behind it, which an affine map allows because it commutes with a convex average of tokens. The mean is then
taken over the narrower tensor.

If a linear layer with a bias comes directly before the operator, two more forms are faster in ONNX Runtime. With a
dynamic batch, ONNX Runtime adds the bias in a separate pass over the tokens (with a fixed batch, the bias is part of
the matrix product). With ``u = (W / 2) z``:

- *bias side*: ``u + (mean(u) + b)`` reuses that pass. The operator then costs one reduction and the addition of a
  single token.
- *skip side*: ``(r + mean(u)) + (u + b)`` adds the mean to the residual stream ``r``. It is used if only one layer norm
  reads the sum, because ONNX Runtime then still fuses the bias into SkipLayerNormalization.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from cbsurgeon.deploy.artifact import FoldedSite
from cbsurgeon.deploy.folding.pattern import (
    Broadcast,
    broadcasts,
    identity_source,
    value,
    why_left,
)
from cbsurgeon.deploy.folding.projections import CONVOLUTIONS, LINEAR, PROJECTIONS, projection_before
from cbsurgeon.deploy.folding.zeros import fold_zeros
from cbsurgeon.graph import Program
from cbsurgeon.graph.editing import ProgramEditor, shaped
from cbsurgeon.graph.occupants import membership
from cbsurgeon.operators import CB
from cbsurgeon.operators.registry import classes

aten = torch.ops.aten

AVERAGE = "token_average"
"""Last component of the module path of every folded mean."""

Rewrite = Callable[[ProgramEditor, Broadcast, fx.Node], bool]
"""Rewrites an operator that follows a linear layer; returns whether it could."""


def fold(program: Program, *, plainly: bool = False) -> tuple[Program, tuple[FoldedSite, ...]]:
    """Fold every Context Broadcasting in a program, whether this package or the model's author wrote it.

    Args:
        program: the captured model; it is not modified.
        plainly: always write ``x + mean(x)``, which compilers fuse well, instead of the forms that are fastest in ONNX
            Runtime with a dynamic batch. A program with a fixed batch always gets this form.

    Returns:
        The edited program, and what was done with each inserted operator, in graph order. If nothing could be folded,
        the program is the one given.
    """
    editor = ProgramEditor(program)
    found = list(broadcasts(editor.graph))
    forms = {} if plainly or not program.batch_axes else _BESIDE_THE_BIAS
    done = [_fold_one(editor, broadcast, forms) for broadcast in found] + fold_zeros(editor)
    others = _other_operators(editor.graph, done)
    if not any(done):
        return program, (*done, *others)
    editor.graph.eliminate_dead_code()
    return editor.finish(), (*done, *others)


def _other_operators(graph: fx.Graph, done: list[FoldedSite]) -> tuple[FoldedSite, ...]:
    """Inserted operators other than plain CB, each with the reason why it is not folded."""
    seen = {site.site for site in done}
    rest: dict[str, tuple[str, str]] = {}
    known = classes()
    for node in graph.nodes:
        found = membership(node, known)
        if found is not None and found.path not in seen:
            rest.setdefault(found.path, (found.op, why_left(found)))
    return tuple(FoldedSite(site, name, reason=reason) for site, (name, reason) in rest.items())


def _fold_one(editor: ProgramEditor, broadcast: Broadcast, forms: Mapping[str, Rewrite]) -> FoldedSite:
    moved = _move_behind(editor, broadcast)
    if moved is not None:
        broadcast = moved
    site = broadcast.site
    projection, reason = projection_before(editor, broadcast.x)
    if projection is not None:
        for form, rewrite in forms.items():
            if rewrite(editor, broadcast, projection.node):
                _halve(editor, projection.weights[:1])
                return FoldedSite(site, CB.name, f"last-projection, {form}")
        _halve(editor, projection.weights)
        _drop_halves(broadcast)
        return FoldedSite(site, CB.name, "last-projection")
    scale = _scale_after(editor, broadcast.result)
    if scale is not None:
        _halve(editor, (scale,))
        _drop_halves(broadcast)
        return FoldedSite(site, CB.name, "layer-scale")
    following = _projections_after(editor, broadcast.result)
    if following:
        _halve(editor, following)
        _drop_halves(broadcast)
        return FoldedSite(site, CB.name, "first-projection")
    return FoldedSite(site, CB.name, reason=reason)


def _halve(editor: ProgramEditor, names: tuple[str, ...]) -> None:
    for name in names:
        editor.replace_weight(name, editor.weights[name].detach() * 0.5)


def _drop_halves(broadcast: Broadcast) -> None:
    """``0.5 * x + 0.5 * mean(x)`` becomes ``x + mean(x)``, in the node that holds the result."""
    _mark_average(broadcast.reduction)
    broadcast.result.target = aten.add.Tensor
    broadcast.result.args = (broadcast.x, broadcast.mean)
    broadcast.result.kwargs = {}


def _single_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _scale_after(editor: ProgramEditor, result: fx.Node) -> str | None:
    """Return the name of the layer scale's weight, if the layer scale is the only reader of the result."""
    user = _single_user(result)
    while user is not None and identity_source(user) is not None:
        user = _single_user(user)
    if user is None or user.target != aten.mul.Tensor:
        return None
    for operand in user.args:
        if isinstance(operand, fx.Node) and operand.name in editor.weights and len(operand.users) == 1:
            return operand.name
    return None


def _projections_after(editor: ProgramEditor, result: fx.Node) -> tuple[str, ...]:
    """Return the weights (not the biases) of the projections that read the result; empty if anything else reads it."""
    weights, pending = [], list(result.users)
    while pending:
        user = pending.pop()
        if identity_source(user) is not None:
            pending += user.users
            continue
        operand = user.args[1] if user.target in PROJECTIONS else None
        if not isinstance(operand, fx.Node) or operand.name not in editor.weights or len(operand.users) != 1:
            return ()
        weights.append(operand.name)
    return tuple(weights)


def _move_behind(editor: ProgramEditor, broadcast: Broadcast) -> Broadcast | None:
    """Move the operator from the input of a projection to its output, if that is the same function and cheaper."""
    user = _single_user(broadcast.result)
    while user is not None and identity_source(user) is not None:
        user = _single_user(user)
    if user is None or not _acts_per_token(user, broadcast):
        return None
    if value(user).shape[_channel_axis(user)] > value(broadcast.x).shape[_channel_axis(user)]:
        return None  # the output is wider than the input (the up projection of an MLP): moving would cost more
    readers = list(user.users)
    broadcast.result.replace_all_uses_with(broadcast.x)
    with editor.graph.inserting_after(user):
        anchor = editor.graph.call_function(aten.alias.default, (user,))
    with editor.graph.inserting_before(anchor):
        mean = _mean(editor, user, broadcast)
        half = editor.call(aten.mul.Tensor, (user, 0.5), value(user), like=broadcast.result)
        scaled = editor.call(aten.mul.Tensor, (mean, 0.5), value(mean), like=broadcast.result)
        result = editor.call(aten.add.Tensor, (half, scaled), value(user), like=broadcast.result)
    editor.graph.erase_node(anchor)
    for reader in readers:
        reader.replace_input_with(user, result)
    _erase_unread(editor.graph, broadcast.result)
    reduction = broadcast.reduction if mean.target != aten.mean.dim else mean
    return Broadcast(user, result, mean, reduction, broadcast.axes, (mean, half, scaled, result), broadcast.site)


def _channel_axis(projection: fx.Node) -> int:
    return value(projection).dim() - 1 if projection.target == LINEAR else 1


def _acts_per_token(node: fx.Node, broadcast: Broadcast) -> bool:
    """Return whether a projection maps each token separately, so that it commutes with the token mean."""
    if node.target == LINEAR:
        return value(node).dim() - 1 not in broadcast.axes
    if node.target not in CONVOLUTIONS or 1 in broadcast.axes or 0 in broadcast.axes:
        return False
    weight = node.args[1]
    padding = node.args[4] if len(node.args) > 4 else 0
    stride = node.args[3] if len(node.args) > 3 else 1
    return (
        isinstance(weight, fx.Node)
        and all(int(size) == 1 for size in value(weight).shape[2:])
        and _all_equal(padding, 0)
        and _all_equal(stride, 1)
    )


def _all_equal(setting: Any, wanted: int) -> bool:
    return all(item == wanted for item in setting) if isinstance(setting, (list, tuple)) else setting == wanted


def _to_skip_side(editor: ProgramEditor, broadcast: Broadcast, linear: fx.Node) -> bool:
    """Rewrite ``r + (x' + mean(x'))`` as ``(r + mean(u)) + (u + b)``, if only a layer norm reads the sum."""
    bias = _bias_of(linear)
    if bias is None or not _same_layout(broadcast.x, linear):
        return False
    tail, residual = broadcast.result, _single_user(broadcast.result)
    while residual is not None and identity_source(residual) is not None:
        tail, residual = residual, _single_user(residual)
    if residual is None or residual.target != aten.add.Tensor or residual.kwargs or not _feeds_norm_only(residual):
        return False
    stream = residual.args[1] if residual.args[0] is tail else residual.args[0]
    if not isinstance(stream, fx.Node) or stream is tail or value(stream).shape != value(residual).shape:
        return False
    with editor.graph.inserting_before(residual):
        plain = editor.call(LINEAR, linear.args[:2], value(linear), like=linear)
        mean = _mean(editor, plain, broadcast)
        _mark_average(mean)
        shifted = editor.call(aten.add.Tensor, (stream, mean), value(stream), like=broadcast.result)
        whole = editor.call(aten.add.Tensor, (plain, bias), value(linear), like=linear)
    residual.args = (shifted, whole)
    _erase_unread(editor.graph, tail)
    return True


def _to_bias_side(editor: ProgramEditor, broadcast: Broadcast, linear: fx.Node) -> bool:
    """Rewrite ``x' + mean(x')`` as ``u + (mean(u) + b)``: one pass adds the bias and the mean."""
    bias, result = _bias_of(linear), broadcast.result
    if bias is None or not _same_layout(broadcast.x, linear):
        return False
    with editor.graph.inserting_before(result):
        plain = editor.call(LINEAR, linear.args[:2], value(linear), like=linear)
        mean = _mean(editor, plain, broadcast)
        _mark_average(mean)
        shift = editor.call(aten.add.Tensor, (mean, bias), value(mean), like=result)
        whole = editor.call(aten.add.Tensor, (plain, shift), value(linear), like=linear)
    result.replace_all_uses_with(whole)
    _erase_unread(editor.graph, result)
    return True


# In order of preference: the first form that is possible is used.
_BESIDE_THE_BIAS: Mapping[str, Rewrite] = {"skip side": _to_skip_side, "bias side": _to_bias_side}


def _bias_of(node: fx.Node) -> fx.Node | None:
    bias = node.args[2] if node.target == LINEAR and len(node.args) > 2 else None
    return bias if isinstance(bias, fx.Node) else None


def _erase_unread(graph: fx.Graph, node: fx.Node) -> None:
    """Erase a node that nothing reads, and the operands that only it reads.

    Dead-code elimination is not used, because it would keep dropout.
    """
    if node.users or node.op != "call_function":
        return
    operands = node.all_input_nodes
    graph.erase_node(node)
    for operand in operands:
        _erase_unread(graph, operand)


def _mean(editor: ProgramEditor, x: fx.Node, broadcast: Broadcast) -> fx.Node:
    """Insert the mean over the operator's axes, accumulated in float32 as the operator does."""
    like, axes, dtype = broadcast.reduction, list(broadcast.axes), value(x).dtype
    result = shaped(value(x), [1 if axis in axes else size for axis, size in enumerate(value(x).shape)])
    if dtype in (torch.float32, torch.float64):
        return editor.call(aten.mean.dim, (x, axes, True), result, like=like)
    wide = editor.call(aten.to.dtype, (x, torch.float32), shaped(value(x), dtype=torch.float32), like=like)
    mean = editor.call(aten.mean.dim, (wide, axes, True), shaped(result, dtype=torch.float32), like=like)
    return editor.call(aten.to.dtype, (mean, dtype), result, like=like)


def _mark_average(reduction: fx.Node) -> None:
    """Mark a node as a folded mean in its module stack, which every exporter keeps."""
    stack = dict(reduction.meta.get("nn_module_stack") or {})
    path = str(list(stack.values())[-1][0]) if stack else ""
    stack[AVERAGE] = (f"{path}.{AVERAGE}" if path else AVERAGE, f"cbsurgeon.deploy.{AVERAGE}")
    reduction.meta["nn_module_stack"] = stack


def _same_layout(x: fx.Node, projection: fx.Node) -> bool:
    """Return whether only identity operators come between a projection and ``x``."""
    node: fx.Node | None = x
    while node is not None and node is not projection:
        node = identity_source(node)
    return node is projection


def _feeds_norm_only(residual: fx.Node) -> bool:
    user = _single_user(residual)
    while user is not None and identity_source(user) is not None:
        user = _single_user(user)
    return user is not None and user.target == aten.layer_norm.default
