"""The table of hand-written networks: ``CASES`` maps a name to a network, its difficulty and its expected
inspection."""

from __future__ import annotations

from tests.graph import (
    networks_axes,
    networks_branches,
    networks_forms,
    networks_mixers,
    networks_negative,
    networks_projections,
    networks_streams,
)
from tests.graph.expectations import CASES, Case, Refusal, Want

MODULES = (
    networks_projections,
    networks_forms,
    networks_branches,
    networks_streams,
    networks_mixers,
    networks_negative,
    networks_axes,
)

__all__ = ["CASES", "MODULES", "Case", "Refusal", "Want", "of"]


def of(*modules: object) -> list[Case]:
    """The cases written down in the given modules, in order."""
    names = {getattr(module, "__name__", "") for module in modules}
    return [case for case in CASES.values() if case.build.__module__ in names]
