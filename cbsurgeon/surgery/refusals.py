"""Errors that planning and both editors raise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cbsurgeon.errors import SurgeryError
from cbsurgeon.operators.registry import operator_class
from cbsurgeon.surgery.recipe import Recipe, RecipeSite


def occupied(site: RecipeSite, by: str, op: str, all_taken: Sequence[int] = ()) -> SurgeryError:
    """The error for a site that already has an operator.

    Args:
        site: the site.
        by: the operator that is there.
        op: the operator that was to be inserted.
        all_taken: indices of all chosen blocks that have an operator, if they are known.
    """
    taken = ",".join(map(str, all_taken or [site.index]))
    these = "the block" if taken.isdigit() else "these blocks"
    twice = operator_class(op).twice if by == op else ""
    return SurgeryError(
        f"block {site.index} already has an operator at its {site.position} position",
        code="CB-SURGERY-03",
        where=f"{site.path or site.stack}: {by} is there",
        why=twice or f"{op} after {by} would compute a function that is neither of the two",
        do=f"remove the first one (cbsurgeon remove REF -o plain.safetensors) or leave {these} out (--exclude {taken})",
    )


def unsuitable(site: RecipeSite, op: str, why: str, do: str = "") -> SurgeryError:
    """The error for an operator that does not work on the tensor of a site."""
    return SurgeryError(
        f"{op} cannot be inserted into block {site.index}",
        code="CB-SURGERY-06",
        where=f"{site.path or site.stack}, {site.position}",
        why=why,
        do=do or "leave the block out (--layers, --exclude), or choose another operator or option",
    )


def already_sharded(name: str) -> SurgeryError:
    """The error for a module whose parameters are distributed tensors."""
    return SurgeryError(
        "the module is sharded already",
        code="CB-SURGERY-08",
        where=name,
        why="a parameter added now would belong to no shard, and its gradient would stay on each rank alone",
        do="insert first, then fully_shard(module), then make the optimizer",
    )


def ragged(operator: object) -> SurgeryError:
    """The error for an operator that is called with a nested tensor, which holds sequences of unequal length."""
    return SurgeryError(
        f"{getattr(operator, 'name', 'the operator')} was given a nested tensor",
        code="CB-SURGERY-09",
        where="a padded batch (nn.TransformerEncoder with src_key_padding_mask)",
        why="its sequences have unequal lengths; a mean over the padded ones would mix padding into every token",
        do="insert the masked form (--masked) and build nn.TransformerEncoder with enable_nested_tensor=False, or give "
        "batches without padding",
    )


def other_rank(operator: Any, dims: int) -> SurgeryError:
    """The error for an operator that is called with a tensor that has more or fewer axes than at its site."""
    return SurgeryError(
        f"{operator.name} was given a tensor with {dims} axes instead of {operator.dims}",
        code="CB-SURGERY-15",
        where=f"token axes {', '.join(map(str, operator.token_axes))}, channel axis {operator.channel_axis}",
        why="its axes are those of the tensor that the recipe was made for; in another tensor, the mean would be over "
        "other axes, such as the channels",
        do="give inputs with a batch axis, as in the recipe (x.unsqueeze(0), also inside torch.vmap), or insert with "
        "inputs=... of the shape that the model gets",
    )


def no_mask(site: RecipeSite, why: str) -> SurgeryError:
    """The error for a masked operator at a site without a mask that marks padding."""
    return SurgeryError(
        f"block {site.index} has no mask that marks its padding",
        code="CB-LEAK-06",
        where=f"{site.path or site.stack}, {site.position}",
        why=why,
        do="leave the block out (--layers, --exclude), or, if there is never padding, insert without --masked",
    )


def other_structure(recipe: Recipe, why: str) -> SurgeryError:
    """The error for a recipe that was made for another model."""
    return SurgeryError(
        "the recipe was made for another structure",
        code="CB-RECIPE-03",
        where=f"recipe for {recipe.reference}, fingerprint {recipe.fingerprint}",
        why=why,
        do="make a recipe for this model: cbsurgeon insert REF --dry-run --json",
    )
