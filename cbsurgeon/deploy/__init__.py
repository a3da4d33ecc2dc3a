"""Taking a model out: folding, ONNX, TensorRT, and the runtimes that run any of them."""

from cbsurgeon.deploy.artifact import Export, FoldedSite, Port

__all__ = ["Export", "FoldedSite", "Port"]
