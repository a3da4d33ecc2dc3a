"""Capturing a model: ``torch.export`` with a symbolic batch, whole or in parts, and running what was captured.

Belongs here: torch.export, its failures, and running a captured graph. Not here: reading it.
"""

from cbsurgeon.graph.capture.whole import capture

__all__ = ["capture"]
