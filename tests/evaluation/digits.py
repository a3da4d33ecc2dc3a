"""A dataset of real digits as colour pictures, and a small network that was trained on them."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import nn

from cbsurgeon.models import Model, Preprocessing
from cbsurgeon.models.imaging import framed, normalized

VIEW = Preprocessing((16, 16), (0.4, 0.3, 0.2), (0.3, 0.25, 0.35), "shortest", (18, 18), "bilinear", source="digits")
TRAINED = 1400
"""Digits the network has seen; the others are for tests."""


@functools.cache
def pictures() -> tuple[list[Image.Image], list[int]]:
    """1,797 digits of 8 x 8 pixels, drawn into colour pictures of 24 x 20."""
    from sklearn.datasets import load_digits

    found = load_digits()
    drawn = []
    for values in found.images:
        ink = Image.fromarray((values * 15.9).astype(numpy.uint8)).resize((24, 20), Image.Resampling.BILINEAR)
        level = numpy.asarray(ink).astype(numpy.float32)
        colour = numpy.stack([level, level * 0.3, 90 - level * 0.35], -1)
        drawn.append(Image.fromarray(colour.clip(0, 255).astype(numpy.uint8)))
    return drawn, [int(label) for label in found.target]


def tensors(view: Preprocessing = VIEW) -> torch.Tensor:
    """Every digit as an input."""
    return normalized(torch.stack([framed(picture, view) for picture in pictures()[0]]), view)


class Network(nn.Module):
    """Patches, one hidden layer over all of them, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.hidden = nn.Linear(16 * 16, 48)
        self.head = nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.hidden(torch.relu(self.patches(x)).flatten(1))))


@functools.cache
def _weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    module = Network()
    inputs, labels = tensors()[:TRAINED], torch.tensor(pictures()[1][:TRAINED])
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    for _ in range(80):
        loss = nn.functional.cross_entropy(module(inputs), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return module.state_dict()


def trained(wrapper: type[nn.Module] | None = None, view: Preprocessing | None = VIEW) -> Model:
    """The trained network, optionally in a wrapper."""
    module: nn.Module = Network()
    module.load_state_dict(_weights())
    if wrapper is not None:
        module = wrapper(module)
    return Model(module.eval(), (torch.zeros(2, 3, 16, 16),), preprocessing=view)


class HalfBlind(nn.Module):
    """Sees only the right half of each image."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(torch.cat([torch.zeros_like(x[..., :8]), x[..., 8:]], -1))


class Large(nn.Module):
    """The same classes, but the outputs exceed 65,504, the largest number of float16."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x) * 2e4


def large() -> Model:
    """``mod:tests.evaluation.digits:large``."""
    return trained(Large)


def network() -> Model:
    """``mod:tests.evaluation.digits:network``."""
    return trained()


def worse() -> Model:
    """``mod:tests.evaluation.digits:worse``."""
    return trained(HalfBlind)


def restated(file: Path, to: Path, view: Preprocessing | None) -> Path:
    """An exported file with another preprocessing in its metadata, or as another program would have written it."""
    import json

    import onnx

    proto = onnx.load(str(file))
    note = next(item for item in proto.metadata_props if item.key == "cbsurgeon")
    if view is None:
        proto.metadata_props.remove(note)
    else:
        note.value = json.dumps({**json.loads(note.value), "preprocessing": view.to_dict()})
    onnx.save(proto, str(to))
    return to


def save(root: Path, count: int = 300) -> Path:
    """A folder of the digits that the network has not seen, one sub-folder a class."""
    drawn, labels = pictures()
    for number in range(TRAINED, min(TRAINED + count, len(drawn))):
        folder = root / str(labels[number])
        folder.mkdir(parents=True, exist_ok=True)
        drawn[number].save(folder / f"{number}.png")
    return root
