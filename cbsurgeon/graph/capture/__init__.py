"""Capture a model with ``torch.export`` and a symbolic batch, whole or in parts, and run what was captured.

Belongs here: torch.export, its failures, and running a captured graph. Not here: finding blocks in it
    (``graph.blocks``).
"""

from cbsurgeon.graph.capture.whole import capture

__all__ = ["capture"]
