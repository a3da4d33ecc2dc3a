"""Runtimes: one protocol around eager PyTorch, programs, torch.compile, ONNX Runtime and TensorRT.

Belongs here: one file per back end, and the choice among them. Not here: measuring (``checks.latency``).
"""

from cbsurgeon.deploy.runtimes.opening import RuntimeSpec, Target, open_runtime, stage
from cbsurgeon.deploy.runtimes.runtime import Runtime

__all__ = ["Runtime", "RuntimeSpec", "Target", "open_runtime", "stage"]
