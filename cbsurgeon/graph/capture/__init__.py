"""Capturing a model: ``torch.export`` with a symbolic batch, whole or in parts, and running what was captured."""

from cbsurgeon.graph.capture.whole import capture

__all__ = ["capture"]
