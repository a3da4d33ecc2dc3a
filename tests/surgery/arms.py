"""Insertions to compare: one recipe carried out on the module and on the program, with telling scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cbsurgeon.graph import Inspection
from cbsurgeon.models.model import Model
from cbsurgeon.surgery import Recipe
from tests.surgery import by_hand

SHARE = 2e-5
"""Share of the largest output by which fp32 may differ: both sides run the same kernels and differ in the rounding of
the mean alone (about 1e-7), which a handful of layers amplifies."""

TELLING = 50
"""An insertion must move the outputs by this many times what is tolerated, or the comparison would say nothing."""


def scales(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Another random vector in every scale, the same on both sides, since they have the same keys."""
    made = {}
    for number, key in enumerate(sorted(key for key in state if key.endswith(".scale"))):
        with torch.no_grad():
            state[key].copy_(torch.rand(state[key].shape, generator=torch.Generator().manual_seed(number)) + 0.25)
        made[key] = state[key]
    return made


def run_module(module: nn.Module, model: Model) -> list[Tensor]:
    """Flat tensor outputs of a module on a model's example."""
    with torch.no_grad():
        result = module(*model.example_inputs, **model.example_kwargs)
    return tensors(result)


def tensors(result: Any) -> list[Tensor]:
    """The tensors in whatever a model returned."""
    if hasattr(result, "to_tuple"):
        result = result.to_tuple()
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def operators(found: Inspection, recipe: Recipe, scaled: Mapping[str, Tensor]) -> dict[str, Any]:
    """The recipe's sites with the operator written by hand; scales in the order of the recipe's sites."""
    made = {}
    for site in recipe.active:
        there = found.blocks[site.index].sites[site.position]
        if recipe.op == "cb":
            made[f"{site.index}"] = (there, lambda x, there=there: by_hand.cb(x, there))
        else:
            (key,) = (key for key in scaled if _belongs(key, site))
            made[f"{site.index}"] = (there, lambda x, there=there, key=key: by_hand.cb_s(x, there, scaled[key]))
    return made


def _belongs(key: str, site: Any) -> bool:
    if site.hooks:
        child = "context_broadcast" if site.hooks[0].when == "output" else "context_broadcast_input"
        return key == f"{site.hooks[0].module}.{child}.scale"
    return key == f"context_broadcast.{site.stack}.{site.index}.{site.position}.scale".replace("#", "_")


def same(left: list[Tensor], right: list[Tensor], share: float = 0.0) -> bool:
    """Equal bit by bit, or within a share of the largest value."""
    if len(left) != len(right):
        return False
    if not share:
        return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
    return distance(left, right) <= share


def distance(left: list[Tensor], right: list[Tensor]) -> float:
    """Largest difference over the largest value, over all floating outputs."""
    pairs = [(a.double(), b.double()) for a, b in zip(left, right, strict=True) if a.is_floating_point() and a.numel()]
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)
