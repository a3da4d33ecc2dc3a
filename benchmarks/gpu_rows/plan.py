"""What ``gpu.py`` measures, in order of importance: the script stops when its time is up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from cbsurgeon.deploy.tensorrt.package import PACKAGES

MODELS = {
    "ViT-S": "timm:deit_small_patch16_224",
    "Swin-T": "timm:swin_tiny_patch4_window7_224",
    "Mixer-S/16": "timm:mixer_s16_224",
    "ViT-Ti": "timm:deit_tiny_patch16_224",
}
DTYPES = ("float32", "float16", "bfloat16")
TORCH = ("eager", "program", "folded", "compile")
FILES = ("onnxruntime", "onnxruntime-tensorrt")


@dataclass(frozen=True)
class Group:
    """Rows that are measured in one process.

    Attributes:
        part: ``parity``, ``latency`` or ``command``.
        model: a key of :data:`MODELS`.
        dtype: floating type of the model.
        backend: a back end of PyTorch or ONNX Runtime, or a TensorRT package.
        batch: samples per call; of latency only.
        variants: what is compared with the unedited model; of latency only.
        seconds: longest duration, after which the process is ended.
    """

    part: str
    model: str
    dtype: str
    backend: str
    batch: int = 8
    variants: tuple[str, ...] = ("folded",)
    seconds: float = 120.0

    @classmethod
    def parse(cls, text: str) -> Group:
        """Return the group of its JSON form."""
        fields = json.loads(text)
        return cls(**{**fields, "variants": tuple(fields["variants"])})

    def to_json(self) -> str:
        """Return the JSON form."""
        return json.dumps(asdict(self))

    def row(self) -> dict[str, object]:
        """Return the fields of every row of the group."""
        row = {"part": self.part, "model": self.model, "dtype": self.dtype, "backend": self.backend}
        return row if self.part == "parity" else {**row, "batch": self.batch}


def plan(models: list[str], dtypes: list[str], batches: list[int]) -> Iterator[Group]:
    """Yield all groups.

    Args:
        models: the first one is measured in all back ends, the others with ``torch.compile`` only.
        dtypes: parity is checked in each; latency is measured in 16 bits if a type of 16 bits is among them.
        batches: batch sizes of the first model's latency; the first one is used everywhere else.
    """
    first, others = models[0], models[1:]
    half = "float16" if "float16" in dtypes else dtypes[0]
    for dtype in dtypes:
        yield from (Group("parity", first, dtype, backend) for backend in TORCH)
    for batch in batches:
        yield Group("latency", first, half, "compile", batch, ("base", "folded", "line"))
    yield Group("latency", first, half, "eager", batches[0], ("base", "line", "cb_s", "se"))
    if "bfloat16" in dtypes and half != "bfloat16":
        yield Group("latency", first, "bfloat16", "compile", batches[0], ("base", "folded"))
    for name in others:
        yield Group("parity", name, half, "compile")
        yield Group("latency", name, half, "compile", batches[0], ("folded", "line"))
    for backend in (*FILES, *PACKAGES):
        yield from (Group("parity", first, dtype, backend) for dtype in dtypes if dtype != "bfloat16")
        if backend != "onnxruntime-tensorrt":
            yield Group("latency", first, half, backend, batches[0], ("base", "folded", "line"))
    yield Group("command", first, "float32", "compile", batches[0])
