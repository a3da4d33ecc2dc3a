"""Choosing sites, writing them down, and operating: on a module or on a program.

Belongs here: selectors, recipes, refusals, and both editors. Not here: finding blocks (``graph``), the operators'
mathematics (``operators``).
"""

from cbsurgeon.surgery.disabling import disable
from cbsurgeon.surgery.operating import insert_, insert_module, insert_program, remove, remove_
from cbsurgeon.surgery.passes import InsertPass
from cbsurgeon.surgery.planning import plan
from cbsurgeon.surgery.recipe import Recipe, RecipeSite
from cbsurgeon.surgery.selection import select, spans

__all__ = [
    "InsertPass",
    "Recipe",
    "RecipeSite",
    "disable",
    "insert_",
    "insert_module",
    "insert_program",
    "plan",
    "remove",
    "remove_",
    "select",
    "spans",
]
