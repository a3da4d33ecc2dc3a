"""What a user does, one function per verb; each walks the rooms in order. The command line calls the same functions."""

from cbsurgeon.verbs.editing import insert, insert_, inspect, load, plan, read_recipe, remove, save
from cbsurgeon.verbs.proving import audit, bench, export, export_checked, open_side, verify
from cbsurgeon.verbs.results import insertion, read_inserted, removal, write_report, write_text
from cbsurgeon.verbs.shipping import Shipment, ship

__all__ = [
    "Shipment",
    "audit",
    "bench",
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
    "verify",
    "write_report",
    "write_text",
]
