"""``insert_``: insert operators into a module in place, as one line of a training script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from cbsurgeon import graph
from cbsurgeon.errors import UsageError
from cbsurgeon.graph.capture.copying import duplicate
from cbsurgeon.models.guessing import with_inputs
from cbsurgeon.models.model import Model
from cbsurgeon.options import Choice, documented, resolve
from cbsurgeon.surgery.module import attachment, order
from cbsurgeon.surgery.operating import insert_module
from cbsurgeon.surgery.planning import plan
from cbsurgeon.surgery.recipe import Recipe


@documented(Choice)
def insert_(
    module: nn.Module,
    what: Recipe | Choice | None = None,
    /,
    *,
    inputs: Any = None,
    batch_axis: int | Mapping[str, int] | None = None,
    **keywords: Any,
) -> nn.Module:
    """Insert operators into a module in place, and return the module.

    The module may be in training or evaluation mode, on any device, in any floating type, compiled, with gradient
    checkpointing, or inside ``DataParallel`` or DDP; all of that stays as it is. Operators with parameters or buffers
    must be inserted before DDP, FSDP and the optimizer are built; otherwise the insertion is refused.

    Every ``state_dict()`` taken afterwards carries the recipe as a note that ``torch.save`` writes, and so does the
    configuration of a transformers model; :func:`cbsurgeon.load` reads it. A copy of a state dict in a plain dictionary
    cannot carry it: see :func:`cbsurgeon.noted`.

    Args:
        module: the model.
        what: a recipe, from :func:`cbsurgeon.plan` or read from JSON; or a choice of operator, position and layers; or
            the choice's fields as keywords: ``insert_(model, op="cb", layers="upper")``.
        inputs: one batch of inputs to capture the model with: a tensor, a tuple, or a dictionary by name. Not needed
            for a recipe, or if the module's own configuration describes its inputs.
        batch_axis: which axis of the inputs is the batch, for all of them or by name; axis 0 by default.

    Raises:
        SurgeryError: the recipe does not fit, a site is occupied, the operator would leak, or FSDP, DDP or an optimizer
            was built before (CB-SURGERY-08, CB-SURGERY-14, CB-SURGERY-13); the module is unchanged.
        UsageError: the inputs are not known (CB-INPUT-02), or a choice is given together with a recipe (CB-OPTION-01).
        NothingMatched: no block, or not every requested block, exists.
    """
    inner = order.unwrapped(module)
    if isinstance(what, Recipe):
        _refuse_both(keywords)
        recipe = what
    else:
        choice = resolve(Choice, what, keywords, "insert_")
        attachment.refuse_sharded(inner)
        copied = replace(to_read(inner, inputs), batch_axis=batch_axis)
        recipe = plan(graph.inspect(copied, check=False), choice)
        insert_module(copied, recipe, in_place=True)  # into the copy first: every operator has to run
    order.refuse_late(inner, recipe)
    attachment.attach(inner, recipe)
    return module


def to_read(module: nn.Module, inputs: Any = None) -> Model:
    """Return a copy of a module to capture: in evaluation mode, on the CPU, in float32, with inputs.

    It shares the weights if they are float32 on the CPU already.
    """
    tensors = (*module.parameters(), *module.buffers())
    as_is = all(
        each.device.type == "cpu" and (each.dtype == torch.float32 or not each.is_floating_point()) for each in tensors
    )
    copied = duplicate(module, share=as_is)
    return with_inputs((copied if as_is else copied.to("cpu").float()).eval(), inputs)


def _refuse_both(keywords: dict[str, Any]) -> None:
    if keywords:
        raise UsageError(
            "a recipe and a choice were both given",
            code="CB-OPTION-01",
            where=f"insert_(module, recipe, {next(iter(keywords))}=...)",
            why="the recipe already says which operator goes where",
            do="leave out one of them",
        )
