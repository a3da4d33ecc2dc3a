"""Folding operators that multiply channels by zero into the rows of the preceding projection."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from cbsurgeon.deploy.artifact import FoldedSite
from cbsurgeon.deploy.folding.pattern import value
from cbsurgeon.deploy.folding.projections import LINEAR, PROJECTIONS, Projection, projection_before
from cbsurgeon.graph.editing import ProgramEditor
from cbsurgeon.graph.occupants import Occupant, occupants

aten = torch.ops.aten


def fold_zeros(editor: ProgramEditor) -> list[FoldedSite]:
    """Fold every operator that multiplies channels by 0 or 1, in place.

    Products with 0 and 1 are exact, so the results are the same.
    """
    return [
        _fold_one(editor, occupant)
        for occupant in occupants(editor.program.exported, editor.graph)
        if occupant.kind is not None and occupant.kind.folding().zeros
    ]


def _fold_one(editor: ProgramEditor, occupant: Occupant) -> FoldedSite:
    keep = _keep(editor, occupant)
    if keep is None:
        return FoldedSite(occupant.path, occupant.op, reason="its nodes are not one product with a fixed mask")
    found, reason = projection_before(editor, occupant.source, readers=1)
    if found is None:
        return FoldedSite(occupant.path, occupant.op, reason=reason)
    if not _along_its_rows(found, occupant, len(keep)):
        return FoldedSite(occupant.path, occupant.op, reason=f"{found.node.name} does not produce the channels as rows")
    for name in found.weights:
        weight = editor.weights[name].detach()
        editor.replace_weight(name, weight * keep.to(weight).view(-1, *[1] * (weight.dim() - 1)))
    occupant.result.replace_all_uses_with(occupant.source)
    for node in reversed(occupant.nodes):
        editor.graph.erase_node(node)
    return FoldedSite(occupant.path, occupant.op, "projection")


def _keep(editor: ProgramEditor, occupant: Occupant) -> Tensor | None:
    """Return the mask, one value per channel, if the operator is a product with a mask; else ``None``."""
    held = [node for node in _outside(occupant) if node is not occupant.source]
    plain = {aten.view.default, aten.reshape.default, aten.to.dtype, aten._to_copy.default}
    rest = [node for node in occupant.nodes if node.target not in plain]
    if len(held) != 1 or held[0].name not in editor.weights or [node.target for node in rest] != [aten.mul.Tensor]:
        return None
    keep = editor.weights[held[0].name].detach()
    return keep if keep.dim() == 1 and bool(((keep == 0) | (keep == 1)).all()) else None


def _outside(occupant: Occupant) -> list[fx.Node]:
    inside = set(occupant.nodes)
    return list(dict.fromkeys(one for node in occupant.nodes for one in node.all_input_nodes if one not in inside))


def _along_its_rows(found: Projection, occupant: Occupant, channels: int) -> bool:
    """Return whether the operator's channels are the rows of the projection's weight."""
    node, source = found.node, occupant.source
    if node.target not in PROJECTIONS or value(node).dim() != value(source).dim():
        return False
    axis = value(node).dim() - 1 if node.target == LINEAR else 1
    return all(int(size) == channels for size in (value(node).shape[axis], value(source).shape[axis]))
