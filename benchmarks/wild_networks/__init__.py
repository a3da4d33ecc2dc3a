"""Architectures written in the style of public repositories, each with a truth and Context Broadcasting by hand."""

from benchmarks.wild_networks import (  # noqa: F401
    hierarchical,
    language,
    linear,
    mixers,
    multimodal,
    residuals,
    vision,
)
from benchmarks.wild_networks.parts import NETWORKS, Network, by_hand

__all__ = ["NETWORKS", "Network", "by_hand"]
