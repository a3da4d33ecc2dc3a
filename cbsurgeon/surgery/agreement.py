"""Check that the sites of a recipe are those of an inspected model."""

from __future__ import annotations

from cbsurgeon.graph.block import Block, Inspection, Site
from cbsurgeon.surgery.recipe import Recipe, RecipeSite
from cbsurgeon.surgery.refusals import other_structure

ROLES = ("channels", "channel_axis", "token_axes", "batch_axes", "unfold")
"""The fields of a site that change the result of the operator."""


def refuse_other_sites(found: Inspection, recipe: Recipe) -> None:
    """Refuse a recipe whose sites differ from those of an inspection of the model.

    An insertion into a module does not inspect the module, because this would take time whenever a checkpoint is
    loaded. A recipe can be edited by hand, so it is compared with the graph once, before it is used.

    Raises:
        SurgeryError: a block, a position, its axes or its channels are not those of the recipe (CB-RECIPE-03).
    """
    for site in recipe.active:
        blocks = found.attention if site.kind == "attention" else found.blocks
        block = next((block for block in blocks if block.index == site.index), None)
        if why := _difference(site, block):
            raise other_structure(recipe, why)


def _difference(site: RecipeSite, block: Block | None) -> str:
    here: Site | None = None if block is None else block.sites.get(site.position)
    name = f"block {site.index} ({site.path or site.stack}), {site.position}"
    if block is None or here is None:
        return f"there is no {name} here"
    if block.path != site.path:
        return f"block {site.index} is {block.path!r} here and {site.path!r} in the recipe"
    for role in ROLES:
        if getattr(here, role) != getattr(site, role):
            return f"{name}: {role} is {getattr(here, role)!r} here and {getattr(site, role)!r} in the recipe"
    return ""


def refuse_unlike_blocks(recipe: Recipe) -> None:
    """Refuse a recipe whose sites contradict its blocks: hidden channels at Mid, channels of the stream elsewhere.

    Raises:
        SurgeryError: a site has another number of channels (CB-RECIPE-03).
    """
    for site in recipe.active:
        if site.kind == "attention" or site.index not in range(len(recipe.structure)):
            continue
        expected = recipe.structure[site.index]["hidden" if site.position == "mid" else "channels"]
        if site.channels != expected:
            raise other_structure(
                recipe,
                f"block {site.index} has {expected} channels at its {site.position} position, and its site says "
                f"{site.channels}",
            )
