"""The verbs: one function per user action. The command line and Python users call the same functions.

Belongs here: calling the packages below in the right order, a few lines per verb. Not here: options and their defaults
(``options``), any computation.
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
