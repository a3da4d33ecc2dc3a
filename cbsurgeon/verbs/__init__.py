"""The verbs: one function per user action. The command line and Python users call the same functions.

Belongs here: calling the packages below in the right order, a few lines per verb. Not here: options and their defaults
(``options``), any computation.
"""

from typing import TYPE_CHECKING

from cbsurgeon import lazy

if TYPE_CHECKING:
    from cbsurgeon.verbs.analyzing import analyze
    from cbsurgeon.verbs.comparing import open_side, verify
    from cbsurgeon.verbs.editing import insert, insert_, inspect, load, plan, read_recipe, remove, save
    from cbsurgeon.verbs.evaluating import evaluate
    from cbsurgeon.verbs.exporting import export, export_checked
    from cbsurgeon.verbs.measuring import audit, bench
    from cbsurgeon.verbs.results import insertion, read_inserted, removal, write_page, write_report, write_text
    from cbsurgeon.verbs.shipping import Shipment, ship
    from cbsurgeon.verbs.sweeping import sweep

_MODULES = {
    "cbsurgeon.verbs.analyzing": ("analyze",),
    "cbsurgeon.verbs.comparing": (
        "open_side",
        "verify",
    ),
    "cbsurgeon.verbs.editing": (
        "insert",
        "insert_",
        "inspect",
        "load",
        "plan",
        "read_recipe",
        "remove",
        "save",
    ),
    "cbsurgeon.verbs.evaluating": ("evaluate",),
    "cbsurgeon.verbs.exporting": (
        "export",
        "export_checked",
    ),
    "cbsurgeon.verbs.measuring": (
        "audit",
        "bench",
    ),
    "cbsurgeon.verbs.results": (
        "insertion",
        "read_inserted",
        "removal",
        "write_page",
        "write_report",
        "write_text",
    ),
    "cbsurgeon.verbs.shipping": (
        "Shipment",
        "ship",
    ),
    "cbsurgeon.verbs.sweeping": ("sweep",),
}

__all__ = [
    "Shipment",
    "analyze",
    "audit",
    "bench",
    "evaluate",
    "export",
    "export_checked",
    "insert",
    "insert_",
    "insertion",
    "inspect",
    "load",
    "open_side",
    "plan",
    "read_inserted",
    "read_recipe",
    "removal",
    "remove",
    "save",
    "ship",
    "sweep",
    "verify",
    "write_page",
    "write_report",
    "write_text",
]

__getattr__, __dir__ = lazy.attach(__name__, _MODULES)
