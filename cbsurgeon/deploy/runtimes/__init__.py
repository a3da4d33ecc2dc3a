"""Runtimes: one protocol around eager PyTorch, programs, torch.compile, ONNX Runtime and TensorRT.

Belongs here: one file per back end, and the choice among them. Not here: measuring (``checks.latency``).
"""

from cbsurgeon.deploy.runtimes.opening import open_runtime, open_spec, stage
from cbsurgeon.deploy.runtimes.runtime import Runtime
from cbsurgeon.deploy.runtimes.spec import RuntimeSpec, Target

__all__ = ["Runtime", "RuntimeSpec", "Target", "open_runtime", "open_spec", "stage"]
