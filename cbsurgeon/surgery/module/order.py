"""Refuse insertions after DDP or an optimizer was built, because neither would include the operators' tensors."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch import nn

from cbsurgeon.errors import SurgeryError
from cbsurgeon.operators import build
from cbsurgeon.surgery.recipe import Recipe


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside ``DataParallel`` and ``DistributedDataParallel``."""
    while isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        module = module.module
    return module


def refuse_late(module: nn.Module, recipe: Recipe) -> None:
    """Refuse an operator with parameters or buffers if an optimizer or DDP was built for the module before.

    The optimizer would never train the parameters, and DDP would not average their gradients. Both are searched for
    among the objects that the garbage collector tracks.

    Raises:
        SurgeryError: there is an optimizer (CB-SURGERY-13) or DDP (CB-SURGERY-14).
    """
    operators = [_built(recipe, site) for site in recipe.active[:1]]
    learns = any(True for each in operators for _ in each.parameters())
    if not any(each.state_dict() for each in operators):
        return
    inner = unwrapped(module)
    parts = {id(part) for part in inner.modules()}
    own = {id(parameter) for parameter in inner.parameters()}
    for living in gc.get_objects():
        if issubclass(type(living), nn.parallel.DistributedDataParallel) and id(living.module) in parts:
            raise SurgeryError(
                "the module is wrapped by DistributedDataParallel already",
                code="CB-SURGERY-14",
                where=f"{recipe.op}, which has parameters or buffers",
                why="the wrapper would neither average their gradients nor synchronise them between ranks",
                do="insert first, then wrap the module",
            )
        if learns and issubclass(type(living), torch.optim.Optimizer) and _holds(living, own):
            raise SurgeryError(
                "an optimizer was built before the insertion",
                code="CB-SURGERY-13",
                where=f"{type(living).__name__}; {recipe.op} has parameters",
                why="the optimizer holds the parameters of this module, and would never train those of the operators",
                do="insert first, then build the optimizer; or delete it before the insertion",
            )


def _built(recipe: Recipe, site: Any) -> nn.Module:
    return build(recipe.op, site.channels, site.channel_axis, site.token_axes, dict(recipe.options))


def _holds(optimizer: torch.optim.Optimizer, own: set[int]) -> bool:
    groups = getattr(optimizer, "param_groups", ())
    return any(id(parameter) in own for group in groups for parameter in group["params"])
