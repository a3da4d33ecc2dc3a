"""Check that the sites of a recipe are those of an inspected model."""

from __future__ import annotations

from cbsurgeon.errors import NothingMatched
from cbsurgeon.graph.block import Block, Hook, Inspection, Site
from cbsurgeon.surgery.recipe import Recipe, RecipeSite
from cbsurgeon.surgery.refusals import other_structure

ROLES = ("channels", "channel_axis", "token_axes", "batch_axes", "unfold", "heads")
"""The fields of a site that change the result of the operator."""


def refuse_other_sites(found: Inspection, recipe: Recipe) -> None:
    """Refuse a recipe whose sites differ from those of an inspection of the model.

    A recipe can be edited by hand, so it is compared with the graph once, before it is used. The insertion itself does
    not inspect the module, because that would slow down every loading of a checkpoint.

    Raises:
        SurgeryError: a block, a position, its axes, channels or modules are not those of the recipe (CB-RECIPE-03).
    """
    refuse_nothing(recipe)
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
    for fact in ("path", "kind", "stack", "calls"):
        if getattr(block, fact) != getattr(site, fact):
            return f"block {site.index}: {fact} is {getattr(block, fact)!r} here, {getattr(site, fact)!r} in the recipe"
    for role in ROLES:
        if getattr(here, role) != getattr(site, role):
            return f"{name}: {role} is {getattr(here, role)!r} here and {getattr(site, role)!r} in the recipe"
    if here.hooks and site.hooks and here.hooks != site.hooks:  # a program may not show which module has the tensor
        return f"{name}: hooks are {_described(here.hooks)} here and {_described(site.hooks)} in the recipe"
    if site.mask is not None and here.mask != site.mask:
        return f"{name}: the mask is {here.mask or 'not known'} here and {site.mask} in the recipe"
    return ""


def _described(hooks: tuple[Hook, ...]) -> str:
    early = {True: " before its dropout", False: ""}
    return ", ".join(f"{hook.when} of {hook.module}{early[hook.before_dropout]}" for hook in hooks)


def refuse_nothing(recipe: Recipe) -> None:
    """Refuse a recipe that would change nothing.

    Raises:
        NothingMatched: no site is enabled (CB-RECIPE-05).
    """
    if not recipe.active:
        raise NothingMatched(
            "the recipe has no enabled site",
            code="CB-RECIPE-05",
            where=f"recipe for {recipe.reference}",
            why="every site is disabled" if recipe.sites else "its list of sites is empty",
            do='set "enabled" to true for at least one site, or make a recipe with --layers',
        )


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
