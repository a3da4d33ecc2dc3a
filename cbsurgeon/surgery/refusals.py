"""Refusals that planning, modules and programs share."""

from __future__ import annotations

from cbsurgeon.errors import SurgeryError
from cbsurgeon.graph.block import Block, Site
from cbsurgeon.surgery.recipe import Recipe


def occupied(block: Block, site: Site) -> SurgeryError:
    """An operator already stands at a site."""
    where = block.path or site.uses[0].value
    return SurgeryError(
        f"block {block.index} already has an operator at its {site.position} position",
        code="CB-SURGERY-03",
        where=f"{where} ({site.occupied})" if site.occupied else where,
        why="Context Broadcasting twice is another operator: 0.25 x + 0.75 mean",
        do="remove the first one: cbsurgeon remove REF -o OUT",
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
