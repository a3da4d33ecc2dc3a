"""The table of back ends: name → file and class. A new back end is one file and one line here.

The name must also be added to :data:`cbsurgeon.vocabulary.BACKENDS`, which the command line reads without torch.
"""

from __future__ import annotations

import importlib

from cbsurgeon.deploy.runtimes.runtime import Runtime
from cbsurgeon.errors import UsageError, did_you_mean

RUNTIMES = {
    "eager": "torch_runtimes:EagerRuntime",
    "program": "torch_runtimes:ProgramRuntime",
    "folded": "torch_runtimes:ProgramRuntime",
    "compile": "torch_runtimes:CompiledRuntime",
    "onnxruntime": "onnx_runtime:OnnxRuntime",
    "onnxruntime-tensorrt": "onnx_runtime:OnnxRuntime",
    "tensorrt": "tensorrt_runtime:TensorRTRuntime",
}


def runtime_class(backend: str) -> type[Runtime]:
    """Import and return the class of a back end.

    Raises:
        UsageError: there is no such back end (CB-RUN-09).
    """
    if backend not in RUNTIMES:
        raise UsageError(
            f"unknown back end {backend!r}",
            code="CB-RUN-09",
            where=f"--on {backend}",
            why=f"the back ends are {', '.join(RUNTIMES)}",
            do=did_you_mean(backend, RUNTIMES, "--on ") or "leave it out to run each model or file as it is",
        )
    file, name = RUNTIMES[backend].split(":")
    found: type[Runtime] = getattr(importlib.import_module(f"cbsurgeon.deploy.runtimes.{file}"), name)
    return found
