"""cbsurgeon: find MLP blocks by reading the graph, insert Context Broadcasting, deploy with proof.

The public names are imported when they are first used, so that importing this package is quick and needs
torch alone.

Belongs here: the public names and nothing else. Not here: code; README.md in this folder is the map of the packages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cbsurgeon import lazy
from cbsurgeon.version import __version__

if TYPE_CHECKING:
    from cbsurgeon.analysis import Analysis, attention_maps
    from cbsurgeon.checks import Audit, Benchmark, Verification
    from cbsurgeon.deploy import Export
    from cbsurgeon.errors import CBSurgeonError, explain
    from cbsurgeon.evaluation import Evaluation
    from cbsurgeon.graph.block import Block, Inspection
    from cbsurgeon.graph.heads import Attention
    from cbsurgeon.models import Model
    from cbsurgeon.operators import CB, CBS, Operator, parameter_groups, set_strength
    from cbsurgeon.options import (
        AnalyzeOptions,
        BenchOptions,
        Choice,
        DataOptions,
        EvaluateOptions,
        ExportOptions,
        InsertOptions,
        Loading,
        ShipOptions,
        VerifyOptions,
    )
    from cbsurgeon.surgery import Recipe, Summary, disable, noted, scriptable, summary
    from cbsurgeon.verbs import (
        Shipment,
        analyze,
        audit,
        bench,
        evaluate,
        export,
        insert,
        insert_,
        inspect,
        load,
        plan,
        remove,
        save,
        ship,
        sweep,
        verify,
        write_report,
    )

_PACKAGES = {
    "cbsurgeon.errors": ("CBSurgeonError", "explain"),
    "cbsurgeon.options": (
        "AnalyzeOptions",
        "BenchOptions",
        "Choice",
        "DataOptions",
        "EvaluateOptions",
        "ExportOptions",
        "InsertOptions",
        "Loading",
        "ShipOptions",
        "SweepOptions",
        "VerifyOptions",
    ),
    "cbsurgeon.operators": ("CB", "CBS", "Operator", "parameter_groups", "set_strength"),
    "cbsurgeon.models": ("Model",),
    "cbsurgeon.graph.block": ("Block", "Inspection"),
    "cbsurgeon.graph.heads": ("Attention",),
    "cbsurgeon.surgery": ("Recipe", "Summary", "disable", "noted", "scriptable", "summary"),
    "cbsurgeon.deploy": ("Export",),
    "cbsurgeon.checks": ("Audit", "Benchmark", "Verification"),
    "cbsurgeon.analysis": ("Analysis", "attention_maps"),
    "cbsurgeon.evaluation": ("Evaluation",),
    "cbsurgeon.verbs": (
        "Shipment",
        "analyze",
        "audit",
        "bench",
        "evaluate",
        "export",
        "insert",
        "insert_",
        "inspect",
        "load",
        "plan",
        "remove",
        "save",
        "ship",
        "sweep",
        "verify",
        "write_report",
    ),
}
__all__ = [  # noqa: RUF022 - in the order a user meets them
    "load",
    "inspect",
    "plan",
    "insert",
    "insert_",
    "remove",
    "disable",
    "summary",
    "save",
    "noted",
    "scriptable",
    "export",
    "verify",
    "audit",
    "bench",
    "analyze",
    "attention_maps",
    "evaluate",
    "ship",
    "sweep",
    "write_report",
    "explain",
    "Model",
    "Inspection",
    "Block",
    "Attention",
    "Recipe",
    "Summary",
    "Loading",
    "Choice",
    "InsertOptions",
    "ExportOptions",
    "VerifyOptions",
    "BenchOptions",
    "DataOptions",
    "AnalyzeOptions",
    "EvaluateOptions",
    "ShipOptions",
    "Operator",
    "CB",
    "CBS",
    "set_strength",
    "parameter_groups",
    "Export",
    "Verification",
    "Audit",
    "Benchmark",
    "Analysis",
    "Evaluation",
    "Shipment",
    "CBSurgeonError",
    "__version__",
]

__getattr__, __dir__ = lazy.attach(__name__, _PACKAGES)
