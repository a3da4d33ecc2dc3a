"""What the attention of a model does: maps, entropy, distance, softmax gradient, CB_S scales, pictures.

Belongs here: statistics of attention maps and scales, and their pictures. Not here: where the maps are in a graph
(``graph.attention.maps``).
"""

from cbsurgeon.analysis.analyzing import analyze
from cbsurgeon.analysis.maps import attention_maps
from cbsurgeon.analysis.result import Analysis

__all__ = ["Analysis", "analyze", "attention_maps"]
