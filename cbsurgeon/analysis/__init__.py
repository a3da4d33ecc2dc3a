"""Attention analysis: attention maps, their entropy, distance and softmax gradient, CB_S scales, pictures.

Belongs here: statistics and pictures of attention maps and scales. Not here: finding the maps in a graph
(``graph.attention.maps``).
"""

from cbsurgeon.analysis.analyzing import analyze
from cbsurgeon.analysis.maps import attention_maps
from cbsurgeon.analysis.result import Analysis

__all__ = ["Analysis", "analyze", "attention_maps"]
