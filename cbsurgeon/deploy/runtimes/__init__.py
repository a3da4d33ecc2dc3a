"""Runtimes: one interface to eager PyTorch, captured programs, torch.compile, ONNX Runtime and TensorRT.

Belongs here: one file per back end, and opening the right one. Not here: measuring (``checks.latency``).
"""

from cbsurgeon.deploy.runtimes.opening import open_runtime, open_spec, stage
from cbsurgeon.deploy.runtimes.runtime import Runtime
from cbsurgeon.deploy.runtimes.spec import RuntimeSpec, Target

__all__ = ["Runtime", "RuntimeSpec", "Target", "open_runtime", "open_spec", "stage"]
