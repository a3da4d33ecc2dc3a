"""Insertions to compare: one recipe carried out on the module and on the program, with telling scales."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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

TELLING = 20
"""An insertion must move the outputs by this many times what is tolerated, or the comparison would say nothing."""


def tell(state: Mapping[str, Tensor], added: Iterable[str]) -> dict[str, Tensor]:
    """Other random numbers in every new parameter and buffer, the same for the same names; a strength stays below 0.5.

    Returns:
        the new tensors by name.
    """
    made = {}
    for number, key in enumerate(sorted(added)):
        with torch.no_grad():
            values = torch.rand(state[key].shape, generator=torch.Generator().manual_seed(number))
            if values.dim() > 1:  # a projection: both signs, so that nothing behind it saturates
                state[key].copy_((2 * values - 1) / values.shape[1] ** 0.5)
            else:
                state[key].copy_(0.25 + values * (0.2 if key.endswith("strength") else 1.0))
        made[key] = state[key]
    return made


def scales(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Another random vector in every scale."""
    return tell(state, [key for key in state if key.endswith(".scale")])


def run_module(module: nn.Module, model: Model) -> list[Tensor]:
    """Flat tensor outputs of a module on a model's example."""
    with torch.no_grad():
        result = module(*model.example_inputs, **model.example_kwargs)
    return tensors(result)


def tensors(result: Any) -> list[Tensor]:
    """The tensors in the output of a model."""
    if hasattr(result, "to_tuple"):
        result = result.to_tuple()
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def operators(found: Inspection, recipe: Recipe, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The recipe's sites with the operator written by hand, its parameters taken from a state by their full names."""
    made = {}
    for number, site in enumerate(recipe.active):
        blocks = found.attention if site.kind == "attention" else found.blocks
        there = blocks[site.index].sites[site.position]
        prefix = f"{path(site)}."
        own = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
        name = "bent" if recipe.op.startswith("mod:") else recipe.op
        made[str(number)] = (there, by_hand.at(there, by_hand.formula(name, recipe.options, own)))
    return made


def path(site: Any) -> str:
    """Where an operator's parameters are: under the module that carries it, or under the block's place."""
    if site.hooks:
        child = "context_broadcast" if site.hooks[0].when == "output" else "context_broadcast_input"
        return f"{site.hooks[0].module}.{child}"
    return f"context_broadcast.{site.stack}.{site.index}.{site.position}".replace("#", "_")


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
