"""Refusals that planning, modules and programs share."""

from __future__ import annotations

from cbsurgeon.errors import SurgeryError
from cbsurgeon.operators.registry import operator_class
from cbsurgeon.surgery.recipe import Recipe, RecipeSite


def occupied(site: RecipeSite, by: str, op: str) -> SurgeryError:
    """An operator already stands at a site.

    Args:
        site: where the second one was to go.
        by: the operator there.
        op: the operator that was to go there.
    """
    twice = operator_class(op).twice if by == op else ""
    return SurgeryError(
        f"block {site.index} already has an operator at its {site.position} position",
        code="CB-SURGERY-03",
        where=f"{site.path or site.stack}: {by} stands there",
        why=twice or f"{op} after {by} would be neither of the two",
        do=f"remove the first one (cbsurgeon remove REF -o OUT), or leave the block out (--exclude {site.index})",
    )


def cannot_stand(site: RecipeSite, op: str, why: str, do: str = "") -> SurgeryError:
    """An operator does not work on the tensor of a site."""
    return SurgeryError(
        f"{op} cannot stand at block {site.index}",
        code="CB-SURGERY-06",
        where=f"{site.path or site.stack}, {site.position}",
        why=why,
        do=do or "leave the block out (--layers, --exclude), or choose another operator or option",
    )


def already_sharded(name: str) -> SurgeryError:
    """A module whose parameters are distributed tensors."""
    return SurgeryError(
        "the module is sharded already",
        code="CB-SURGERY-08",
        where=name,
        why="a parameter added now would belong to no shard, and its gradient would stay on each rank alone",
        do="insert first, then fully_shard(module), then make the optimizer",
    )


def ragged(operator: object) -> SurgeryError:
    """A nested tensor reaches an operator: sequences of unequal length, as under a padding mask."""
    return SurgeryError(
        f"{getattr(operator, 'name', 'the operator')} was given a nested tensor",
        code="CB-SURGERY-09",
        where="a padded batch (nn.TransformerEncoder with src_key_padding_mask)",
        why="its sequences have unequal lengths; a mean over the padded ones would mix padding into every token",
        do="insert the masked form (--masked) and build nn.TransformerEncoder with enable_nested_tensor=False, or give "
        "batches without padding",
    )


def no_mask(site: RecipeSite, why: str) -> SurgeryError:
    """A masked operator was asked for where no mask says which tokens are padding."""
    return SurgeryError(
        f"block {site.index} has no mask that says which of its tokens are padding",
        code="CB-LEAK-06",
        where=f"{site.path or site.stack}, {site.position}",
        why=why,
        do="leave the block out (--layers, --exclude), or, where there is never padding, the masked form",
    )


def other_structure(recipe: Recipe, why: str) -> SurgeryError:
    """A recipe meets a model it was not made for."""
    return SurgeryError(
        "the recipe was made for another structure",
        code="CB-RECIPE-03",
        where=f"recipe for {recipe.reference}, fingerprint {recipe.fingerprint}",
        why=why,
        do="make a recipe for this model: cbsurgeon insert REF --dry-run --json",
    )
