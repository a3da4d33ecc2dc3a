"""Several views of a sample joined along the batch inside forward(): two crops, guidance, averages over flips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sympy
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._sympy.functions import Mod

import cbsurgeon as cbs
from cbsurgeon.errors import CaptureError
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.capture.batch import guards

WIDTH, LENGTH = 16, 6
CLOSE = 5e-6
"""Absolute, on outputs of magnitude 1 to 10 in float32: means of six tokens that are summed in another order."""


def mean(y: Tensor) -> Tensor:
    return (y + y.mean(1, keepdim=True)) / 2


class Block(nn.Module):
    """A transformer block; ``at`` is the operator written by hand, per position."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor, at: str = "") -> Tensor:
        by_hand = {position: mean if position == at else nn.Identity() for position in ("front", "mid", "end")}
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v))
        y = by_hand["mid"](F.gelu(self.fc1(by_hand["front"](self.norm2(x)))))
        return x + by_hand["end"](self.fc2(y))


class Views(nn.Module):
    """Blocks between a step that joins views and one that takes them apart."""

    def __init__(self, join: Callable[[Tensor], Tensor], part: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.join, self.part = join, part

    def forward(self, x: Tensor, at: str = "") -> Tensor:
        y = self.join(x)
        for block in self.blocks:
            y = block(y, at)
        return self.part(y, x.shape[0])


def guided(y: Tensor, _: int) -> Tensor:
    plain, other = y.chunk(2)
    return plain + 2 * (plain - other)


def alike(y: Tensor, batch: int) -> Tensor:
    first, second = torch.split(y.mean(1), batch)
    return F.cosine_similarity(first, second)


VIEWS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, int], Tensor]]] = {
    "guidance": (lambda x: torch.cat([x, 0.5 * x]), guided),
    "two crops": (lambda x: torch.cat([x, x.flip(2)]), alike),
    "three flips": (lambda x: torch.cat([x, x.flip(1), 0.9 * x]), lambda y, _: torch.stack(y.chunk(3)).mean(0)),
    "repeated samples": (lambda x: x.repeat_interleave(4, 0), lambda y, b: y.view(b, 4, LENGTH, WIDTH).amax(1)),
    "interleaved": (
        lambda x: torch.stack([x, x.flip(1)], 1).flatten(0, 1),
        lambda y, _: y.unflatten(0, (-1, 2)).mean(1),
    ),
}


def views(name: str) -> tuple[Views, cbs.Model]:
    torch.manual_seed(0)
    module = Views(*VIEWS[name]).eval()
    return module, cbs.Model(module, (torch.randn(2, LENGTH, WIDTH),))


@pytest.mark.thin(3)
@pytest.mark.parametrize("position", ["front", "mid", "end"])
@pytest.mark.parametrize("name", VIEWS)
def test_every_batch_size_is_right(name: str, position: str) -> None:
    module, model = views(name)
    recipe = cbs.plan(cbs.inspect(model), op="cb", layers="all", pos=position)
    edited, program = cbs.insert(model, recipe).module, cbs.insert(model, recipe, on="program").program.module()
    for batch in (2, 3, 7):
        x = torch.randn(batch, LENGTH, WIDTH)
        assert torch.allclose(edited(x), module(x, position), atol=CLOSE)
        assert torch.allclose(program(x), module(x, position), atol=CLOSE)
        assert not torch.allclose(edited(x), module(x), atol=100 * CLOSE)


@pytest.mark.parametrize("name", ["guidance", "repeated samples"])
def test_the_file_is_right_for_every_batch_size(name: str, tmp_path: Path) -> None:
    """onnxscript's optimizer fails at a split into pieces whose size is the batch."""
    module, model = views(name)
    onnxruntime = pytest.importorskip("onnxruntime")
    edited = cbs.insert(model, cbs.plan(cbs.inspect(model), op="cb", layers="all"))
    cbs.export(edited, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 2, 5):
        x = torch.randn(batch, LENGTH, WIDTH)
        found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
        assert torch.allclose(found, module(x, "end"), atol=CLOSE)


class Choosing(nn.Module):
    """Other steps for some batch sizes."""

    def __init__(self, rule: Callable[[int], bool]) -> None:
        super().__init__()
        self.block, self.rule = Block(), rule

    def forward(self, x: Tensor) -> Tensor:
        return self.block(2 * x if self.rule(x.shape[0]) else x)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (lambda batch: batch > 4, "for a batch of 5"),
        (lambda batch: batch % 3 == 2, "for a batch of 1"),
        (lambda batch: batch > 1000, "for a batch of 1023"),
    ],
)
def test_conditions_that_some_batch_sizes_break_are_named(rule: Callable[[int], bool], said: str) -> None:
    with pytest.raises(CaptureError) as error:
        capture(cbs.Model(Choosing(rule).eval(), (torch.randn(2, LENGTH, WIDTH),)))
    assert error.value.code == "CB-CAPTURE-04"
    assert said in error.value.why and "batch" in error.value.why


def test_a_condition_without_a_value_does_not_hold() -> None:
    """In CSATv2, a remainder is by zero for one batch size."""
    batch = sympy.Symbol("batch", integer=True)
    whole = sympy.Eq(Mod(sympy.Integer(6), batch - 2), 0)
    assert [size for size in range(3, 9) if guards._holds(whole, size)] == [
        size for size in range(3, 9) if 6 % (size - 2) == 0
    ]
    assert not guards._holds(whole, 2)


class Contiguous(nn.Module):
    """A condition without an effect, as in the upsampling of diffusers."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: Tensor, at: str = "") -> Tensor:
        return self.block(x.contiguous() if x.shape[0] >= 64 else x, at)


def test_a_condition_without_an_effect_is_accepted() -> None:
    torch.manual_seed(0)
    module = Contiguous().eval()
    model = cbs.Model(module, (torch.randn(2, LENGTH, WIDTH),))
    program = cbs.insert(model, cbs.plan(cbs.inspect(model), op="cb", layers="all"), on="program").program.module()
    for batch in (2, 5, 70):
        x = torch.randn(batch, LENGTH, WIDTH)
        assert torch.allclose(program(x), module(x, "end"), atol=CLOSE)
