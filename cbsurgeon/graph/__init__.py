"""Capture a model's graph and find its blocks: axis roles, residual branches, attention. The model is not changed.

Belongs here: everything that is read from a graph. Not here: loading a model (``models``), changing a graph
(``surgery``, ``deploy``; both use ``graph.editing``).
"""

from cbsurgeon.graph.block import Block, Hook, Inspection, Rejected, Site, Use
from cbsurgeon.graph.inspection import inspect, inspect_program
from cbsurgeon.graph.program import Program, wrap

__all__ = [
    "Block",
    "Hook",
    "Inspection",
    "Program",
    "Rejected",
    "Site",
    "Use",
    "inspect",
    "inspect_program",
    "wrap",
]
