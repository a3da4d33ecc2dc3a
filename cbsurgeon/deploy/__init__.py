"""Deployment: folding operators into weights, exporting to ONNX and TensorRT, and running models and files.

Belongs here: whatever turns a model into a file, and whatever runs a model or a file. Not here: comparing the two
(``checks``), inserting operators (``surgery``).
"""

from cbsurgeon.deploy.artifact import Export, FoldedSite, Port
from cbsurgeon.deploy.folding.folds import fold
from cbsurgeon.deploy.formats import export
from cbsurgeon.deploy.onnx.exporting import export_onnx
from cbsurgeon.deploy.onnx.file import read_metadata
from cbsurgeon.deploy.runtimes import Runtime, RuntimeSpec, open_runtime, open_spec, stage
from cbsurgeon.deploy.tensorrt.build_options import BuildOptions
from cbsurgeon.deploy.tensorrt.building import build_engine, export_engine

__all__ = [
    "BuildOptions",
    "Export",
    "FoldedSite",
    "Port",
    "Runtime",
    "RuntimeSpec",
    "build_engine",
    "export",
    "export_engine",
    "export_onnx",
    "fold",
    "open_runtime",
    "open_spec",
    "read_metadata",
    "stage",
]
