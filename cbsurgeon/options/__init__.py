"""Every option a user can set, as frozen dataclasses; a field is a keyword in Python and a flag on the command line.

A new option is one field here. Nothing in this package imports torch.

Not here: acting on options (``verbs`` and the packages they call), names and defaults that are shared (``vocabulary``).
"""

from cbsurgeon.options.analyzing import AnalyzeOptions
from cbsurgeon.options.checking import AuditOptions, CheckOptions, ExportOptions, ShipOptions, VerifyOptions
from cbsurgeon.options.data import DATA_HELP, DataOptions
from cbsurgeon.options.editing import Choice, InsertOptions, Loading
from cbsurgeon.options.evaluating import EvaluateOptions
from cbsurgeon.options.flags import Flag, default_of, documented, fields_of, flags_of, resolve
from cbsurgeon.options.sweeping import SweepOptions
from cbsurgeon.options.timing import BenchOptions, BenchPoints

__all__ = [
    "DATA_HELP",
    "AnalyzeOptions",
    "AuditOptions",
    "BenchOptions",
    "BenchPoints",
    "CheckOptions",
    "Choice",
    "DataOptions",
    "EvaluateOptions",
    "ExportOptions",
    "Flag",
    "InsertOptions",
    "Loading",
    "ShipOptions",
    "SweepOptions",
    "VerifyOptions",
    "default_of",
    "documented",
    "fields_of",
    "flags_of",
    "resolve",
]
