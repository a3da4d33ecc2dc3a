"""What the attention of a model does: maps, entropy, distance, softmax gradient, CB_S scales, pictures."""

from cbsurgeon.analysis.maps import attention_maps

__all__ = ["attention_maps"]
