"""A batch that the model's code turns into a Python number: read, edited and exported for every batch size, or refused.

The reference is the operator written by hand into the module, run at other batch sizes than those of the capture.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import CaptureError
from cbsurgeon.graph.capture import capture

WIDTH, SIDE, WINDOW = 8, 4, 2
CLOSE = 1e-5
"""Absolute, on outputs of order one in float32: what two blocks round is about 1e-6."""


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)

    def forward(self, x: Tensor, by_hand: bool) -> Tensor:
        y = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return x + ((y + y.mean(1, keepdim=True)) / 2 if by_hand else y)


class Windows(nn.Module):
    """Attention in windows, put together again by ``int(windows.shape[0] / ...)``, as the first Swin does."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        y = x.view(b, SIDE // WINDOW, WINDOW, SIDE // WINDOW, WINDOW, c).transpose(2, 3).reshape(-1, WINDOW**2, c)
        q, k, v = self.qkv(y).chunk(3, -1)
        y = self.out((q @ k.transpose(1, 2)).softmax(-1) @ v)
        samples = int(y.shape[0] / (SIDE * SIDE / WINDOW / WINDOW))
        y = y.view(samples, SIDE // WINDOW, SIDE // WINDOW, WINDOW, WINDOW, c).transpose(2, 3)
        return x + y.reshape(samples, n, c)


class Attention(nn.Module):
    """Attention in a subclass's way of handling the batch; ``SIDE * SIDE`` tokens, or three."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def mixed(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v)


class Reshaped(Attention):
    """``int(x.shape[0])`` in a view."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mixed(x).reshape(int(x.shape[0]), -1).view(x.shape)


class Allocated(Attention):
    """A tensor for as many samples as there are, a number divided by the batch."""

    def forward(self, x: Tensor) -> Tensor:
        b = int(x.shape[0])
        return x + self.mixed(x) + torch.ones(b, 1, WIDTH) * (torch.arange(b).sum() * 0) / float(b)


class Numpy(Attention):
    """Sizes multiplied by numpy."""

    def forward(self, x: Tensor) -> Tensor:
        import numpy

        rows = int(numpy.prod(x.shape[:2]))
        return x + self.mixed(x).reshape(rows, WIDTH).view(x.shape)


class Network(nn.Module):
    def __init__(self, mixer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.mixers = nn.ModuleList([mixer(), mixer()])
        self.mlps = nn.ModuleList([Mlp(), Mlp()])

    def forward(self, x: Tensor, by_hand: bool = False) -> Tensor:
        for mixer, mlp in zip(self.mixers, self.mlps, strict=True):
            x = mlp(mixer(x), by_hand)
        return x


def noise(batch: int, tokens: int = SIDE * SIDE) -> Tensor:
    return torch.randn(batch, tokens, WIDTH, generator=torch.Generator().manual_seed(batch))


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("mixer", "tokens"),
    [(Windows, 16), (Reshaped, 16), (Reshaped, 3), (Reshaped, 2), (Allocated, 16), (Numpy, 16)],
)
@pytest.mark.parametrize("example", [1, 2])
def test_every_batch_size_is_right(mixer: type[nn.Module], tokens: int, example: int) -> None:
    torch.manual_seed(0)
    module = Network(mixer).eval()
    model = cbs.Model(module, (noise(example, tokens),))
    found = cbs.inspect(model)
    assert [(block.path, block.tokens, block.sites["end"].batch_axes) for block in found.blocks] == [
        ("mlps.0", tokens, (0,)),
        ("mlps.1", tokens, (0,)),
    ]
    recipe = cbs.plan(found, op="cb", layers="all")
    edited, program = cbs.insert(model, recipe).module, cbs.insert(model, recipe, on="program").program.module()
    for batch in (1, 2, 3, 7):
        x = noise(batch, tokens)
        assert torch.allclose(edited(x), module(x, True), atol=CLOSE)
        assert torch.allclose(program(x), module(x, True), atol=CLOSE)
        assert not torch.allclose(edited(x), module(x), atol=100 * CLOSE)


def test_the_steps_keep_their_modules() -> None:
    captured = capture(cbs.Model(Network(Windows).eval(), (noise(2),)))
    paths = {
        list(node.meta["nn_module_stack"].values())[-1][0]
        for node in captured.exported.graph.nodes
        if str(node.target) == "aten.linear.default"
    }
    assert paths == {f"{kind}.{i}.{name}" for i in range(2) for kind, name in (("mlps", "fc1"), ("mlps", "fc2"))} | {
        f"mixers.{i}.{name}" for i in range(2) for name in ("qkv", "out")
    }


@pytest.mark.wide
def test_it_is_exported_for_an_open_batch_and_for_one(tmp_path: Path) -> None:
    model = cbs.Model(Network(Windows).eval(), (noise(2),))
    edited = cbs.insert(model, cbs.plan(cbs.inspect(model), op="cb", layers="all"))
    for name, options in (("open.onnx", {}), ("four.onnx", {"batch": 4})):
        cbs.export(edited, tmp_path / name, **options)
        cbs.verify(edited, tmp_path / name).raise_if_failed()


class PerSample(nn.Module):
    """A Python loop over the samples: there are as many steps as samples."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Network(Reshaped)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.inner(row[None]) for row in x])


class Looked(nn.Module):
    """Other numbers for other batches, and no multiple of them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Network(Reshaped)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * (1.0 / int(x.shape[0]) ** 2)


class Large(nn.Module):
    """Another step for large batches, chosen by a Python number."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Network(Reshaped)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(2 * x if int(x.shape[0]) > 16 else x)


class Larger(Large):
    """Another number for large batches."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * min(float(int(x.shape[0])), 16.0))


@pytest.mark.parametrize("make", [PerSample, Looked, Large, Larger])
def test_a_model_for_one_batch_size_is_refused_with_the_reason(make: type[nn.Module]) -> None:
    with pytest.raises(CaptureError) as error:
        capture(cbs.Model(make().eval(), (noise(2),)))
    assert error.value.code == "CB-CAPTURE-04"
    assert "batch" in error.value.why
