"""Choose sites, record them in a recipe, and insert operators into a module or a program or remove them.

Belongs here: selectors, recipes, refusals, and both editors. Not here: finding blocks (``graph``), the operators'
mathematics (``operators``).
"""

from cbsurgeon.surgery.in_place import insert_
from cbsurgeon.surgery.module.disabling import disable
from cbsurgeon.surgery.module.inserted import Summary, summary
from cbsurgeon.surgery.module.scripting import scriptable
from cbsurgeon.surgery.operating import insert_module, insert_program, noted, remove, remove_
from cbsurgeon.surgery.passes import InsertPass
from cbsurgeon.surgery.planning import plan
from cbsurgeon.surgery.recipe import Recipe, RecipeSite
from cbsurgeon.surgery.selection import select, spans

__all__ = [
    "InsertPass",
    "Recipe",
    "RecipeSite",
    "Summary",
    "disable",
    "insert_",
    "insert_module",
    "insert_program",
    "noted",
    "plan",
    "remove",
    "remove_",
    "scriptable",
    "select",
    "spans",
    "summary",
]
