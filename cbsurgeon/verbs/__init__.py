"""What a user does, one function per verb; each walks the packages in order. The command line calls the same functions.

Belongs here: the order in which packages are called, a few lines each. Not here: options and their defaults
(``options``), decisions.
"""

from cbsurgeon.checks import audit, bench, verify
from cbsurgeon.deploy import export
from cbsurgeon.models import save
from cbsurgeon.report import notebook
from cbsurgeon.surgery import insert_, plan, remove
from cbsurgeon.verbs.analyzing import analyze
from cbsurgeon.verbs.editing import insert, inspect, load, read_recipe
from cbsurgeon.verbs.evaluating import evaluate
from cbsurgeon.verbs.proving import export_checked, open_side
from cbsurgeon.verbs.results import insertion, read_inserted, removal, write_report, write_text
from cbsurgeon.verbs.shipping import Shipment, ship
from cbsurgeon.verbs.sweeping import sweep

notebook.install()

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
    "write_report",
    "write_text",
]
