"""Names and defaults that all packages share and that the command line can use without importing torch."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

OPERATORS = ("cb", "cb_s", "cb_gate", "cb_hybrid", "cb_retrofit", "se", "uniform_head")
"""Built-in operators, in the order they are documented."""

POSITIONS = ("front", "mid", "end")
"""Where in a branch an operator is inserted (paper, Table 4b): before the up projection, before the down projection,
after it."""

BRANCHES = ("mlp", "msa", "both")
"""Which branches get an operator (paper, Table 4a): the MLPs, the attention, or both."""

KINDS = ("mlp", "glu", "conv-mlp", "token-mlp", "inverted-bottleneck")
"""Kinds of MLP blocks."""

SWEEP_HOSTS = ("here", "ray")
"""Where the workers of a sweep run."""

BACKENDS = ("eager", "program", "folded", "compile", "onnxruntime", "onnxruntime-tensorrt", "tensorrt")
"""Ways to run a model: as loaded, captured, captured and folded, by torch.compile, or from an exported file."""

DTYPES = ("float16", "bfloat16")
"""Types an export can cast the weights to."""

OPSETS = (17, 18, 19, 20, 21, 22, 23)
"""ONNX operator sets that exports are tested with. 17 is converted from 18 where the model allows it; 20 is the first
with Gelu as one operator, and 22 the first whose Conv takes bfloat16; 23 has Attention as one operator, which needs
ONNX Runtime from 2026 on a GPU, or TensorRT 10.14."""

DEFAULT_OPSET = 20
"""ONNX operator set that every runtime of the last two years reads, and the first with Gelu as one operator."""

PARITY_BATCHES = (1, 2, 7)
"""One sample, the smallest batch of several, and a prime number: a batch fixed by mistake fails at one of them."""

ENGINE_BATCHES = (1, 8, 64)
"""Smallest, most common and largest batch of an engine."""

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
"""Suffixes of TensorRT engines."""

DEVICES = ("cpu", "cuda")
"""Device types that a model can run on."""

RESIZES = ("shortest", "squash", "pad", "none")
"""Scale the shorter edge of an image; scale both edges; scale until it fits, and fill the rest with the mean; leave it
as it is.
"""

INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "lanczos", "box", "hamming")
"""How an image is scaled, as torchvision names it."""

TASKS = ("classification", "multilabel", "segmentation")
"""Tasks of a model: one class per image, several classes per image, or one class per pixel."""

CLASS_ORDERS = ("alphabetic", "numeric")
"""Orders of class folders that have numbers as names: torchvision's, and timm's."""

INPUTS = {
    "generated": "random",
    "large": "the same, enlarged",
    "small": "a thousandth of them, or zero",
    "vocabulary": "every token id",
    "padded": "with a mask of some tokens",
}
"""Kinds of inputs that a comparison generates, and what they are."""

IMAGES = "images"
"""The kind of the inputs that a comparison reads from a dataset."""

COMPLETION_VARIABLE = "_CBSURGEON_COMPLETE"
"""Environment variable that a shell sets when it asks for completions; click derives the name from the program's."""


ON_LOAD: ContextVar[Callable[[Any], None] | None] = ContextVar("ON_LOAD", default=None)
"""Called with the provenance of every loaded model. The command line uses it to print where the weights come from."""


def inputs_called(kind: str) -> str:
    """Return the inputs of a comparison in words: ``small inputs``, ``the images``, ``the inputs of mine.npz``."""
    if kind in INPUTS:
        return f"{kind} inputs"
    return "the images" if kind == IMAGES else f"the inputs of {kind}"


class Progress(Protocol):
    """Called with the name of each step of a long job when the step starts."""

    def __call__(self, step: str, /) -> None:
        """Show the step."""
        ...
