"""Deployment: folding operators into weights, exporting to ONNX and TensorRT, and running models and files.

Belongs here: whatever turns a model into a file, and whatever runs a model or a file. Not here: comparing the two
(``checks``), inserting operators (``surgery``).
"""

from typing import TYPE_CHECKING

from cbsurgeon import lazy

if TYPE_CHECKING:
    from cbsurgeon.deploy.artifact import Export, FoldedSite, Port
    from cbsurgeon.deploy.folding.folds import fold
    from cbsurgeon.deploy.formats import export
    from cbsurgeon.deploy.onnx.exporting import export_onnx
    from cbsurgeon.deploy.onnx.file import read_metadata
    from cbsurgeon.deploy.runtimes import Runtime, RuntimeSpec, open_runtime, open_spec, stage
    from cbsurgeon.deploy.tensorrt.build_options import BuildOptions
    from cbsurgeon.deploy.tensorrt.building import build_engine, export_engine

_MODULES = {
    "cbsurgeon.deploy.artifact": (
        "Export",
        "FoldedSite",
        "Port",
    ),
    "cbsurgeon.deploy.folding.folds": ("fold",),
    "cbsurgeon.deploy.formats": ("export",),
    "cbsurgeon.deploy.onnx.exporting": ("export_onnx",),
    "cbsurgeon.deploy.onnx.file": ("read_metadata",),
    "cbsurgeon.deploy.runtimes": (
        "Runtime",
        "RuntimeSpec",
        "open_runtime",
        "open_spec",
        "stage",
    ),
    "cbsurgeon.deploy.tensorrt.build_options": ("BuildOptions",),
    "cbsurgeon.deploy.tensorrt.building": (
        "build_engine",
        "export_engine",
    ),
}

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

__getattr__, __dir__ = lazy.attach(__name__, _MODULES)
