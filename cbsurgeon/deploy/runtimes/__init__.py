"""Runtimes: one protocol around eager PyTorch, programs, torch.compile, ONNX Runtime and TensorRT."""

from cbsurgeon.deploy.runtimes.opening import RuntimeSpec, Target, open_runtime, stage
from cbsurgeon.deploy.runtimes.runtime import Runtime

__all__ = ["Runtime", "RuntimeSpec", "Target", "open_runtime", "stage"]
