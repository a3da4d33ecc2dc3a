"""Residual streams that are cut, joined, moved part of the way, or have an adapter beside the MLP.

The reference replaces every MLP of the network by the same MLP with Context Broadcasting written out behind it.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cbsurgeon as cbs
from cbsurgeon.graph import inspect
from cbsurgeon.models.model import Model
from cbsurgeon.surgery import plan

BATCH, LENGTH, WIDTH = 2, 6, 16
CLOSE = 1e-5
"""float32: two blocks of sums over at most 32 numbers of order one round to about 1e-6."""


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Broadcast(nn.Module):
    """Eq. 1 over all axes between the first and the last, or within windows where the MLP sees them."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(x)
        return (y + y.mean(dim=tuple(range(1, y.dim() - 1)), keepdim=True)) / 2


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.out((q @ k.transpose(1, 2) / 4).softmax(-1) @ v)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attn, self.mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Attention(), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return self.second(x)

    def second(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm2(x))


class Lerp(Block):
    """The stream moves part of the way to the MLP's result."""

    def second(self, x: Tensor) -> Tensor:
        return torch.lerp(x, self.mlp(self.norm2(x)), 0.4)


class LerpTensor(Block):
    """The same by a learned amount per channel, and the other operand first: ``lerp(f(x), x, a)``."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.full((WIDTH,), 0.3))

    def second(self, x: Tensor) -> Tensor:
        return torch.lerp(self.mlp(self.norm2(x)), x, self.a)


class Moved(Block):
    """``x + a * (f(x) - x)``."""

    def second(self, x: Tensor) -> Tensor:
        return x + 0.4 * (self.mlp(self.norm2(x)) - x)


class Sphere(Block):
    """The same with every vector normalised, as in nGPT and nViT."""

    def second(self, x: Tensor) -> Tensor:
        normed = F.normalize(self.mlp(x), dim=-1)
        return F.normalize(x + 0.3 * (normed - x), dim=-1)


class SplitNorms(Block):
    """The halves of the channels are normalised apart and joined."""

    def __init__(self) -> None:
        super().__init__()
        self.na, self.nb = nn.LayerNorm(WIDTH // 2), nn.LayerNorm(WIDTH // 2)

    def second(self, x: Tensor) -> Tensor:
        a, b = x.split(WIDTH // 2, -1)
        return x + self.mlp(torch.cat([self.na(a), self.nb(b)], -1))


class SwappedHalves(Block):
    """The MLP reads the halves in the other order."""

    def second(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x + self.mlp(self.norm2(torch.cat([b, a], -1)))


class Sliced(Block):
    """The same with slices instead of a tuple."""

    def second(self, x: Tensor) -> Tensor:
        h = WIDTH // 2
        return x + self.mlp(self.norm2(torch.cat([x[..., h:], x[..., :h]], -1)))


class Rejoined(Block):
    """The stream is cut along its tokens and joined again before the MLP."""

    def second(self, x: Tensor) -> Tensor:
        first, rest = torch.split(x, [1, LENGTH - 1], dim=1)
        return x + self.mlp(self.norm2(torch.cat([first, 2 * rest], 1)))


class EmptyFirst(Block):
    """An empty tensor of one axis is joined to what attention reads, as an empty cache is."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(x + self.attn(torch.cat([torch.empty(0), self.norm1(x)], 1)))


class ExpandedScale(Block):
    """Layer scale that was expanded to the full size first."""

    def second(self, x: Tensor) -> Tensor:
        y = self.mlp(self.norm2(x))
        return x + y / y.norm(dim=-1, keepdim=True).expand_as(y)


class Adapter(Block):
    """A bottleneck parallel to the MLP, on the same stream."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(WIDTH, 4), nn.Linear(4, WIDTH)

    def second(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm2(x)) + 0.1 * self.up(torch.relu(self.down(x)))


class AdapterFirst(Adapter):
    """The same, added before the MLP's result."""

    def second(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.up(torch.relu(self.down(x))) + self.mlp(self.norm2(x))


class ValueStream(Block):
    """T2T's performer: the stream of the MLP begins at the values, one piece of a tuple."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = torch.split(self.attn.qkv(self.norm1(x)), WIDTH, dim=-1)
        y = v + self.attn.out(torch.einsum("bnd,bde->bne", q, torch.einsum("bnd,bne->bde", k, v)) / LENGTH)
        return self.second(y)


class Shifted(Block):
    """S2-MLP: half of the channels come from the token before, between two projections that are no MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.back = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.into(self.norm1(x)))
        h = WIDTH // 2
        moved = torch.cat([y[:, :1, :h], y[:, :-1, :h]], 1)
        x = x + self.back(torch.cat([moved, y[..., h:]], -1))
        return self.second(x)


FORMS = (
    Lerp, LerpTensor, Moved, Sphere, SplitNorms, SwappedHalves, Sliced, Rejoined, EmptyFirst, ExpandedScale, Adapter,
    AdapterFirst, ValueStream, Shifted,
)  # fmt: skip


@pytest.mark.thin(3)
@pytest.mark.parametrize("make", FORMS)
def test_the_mlp_is_found_and_edited(make: type[Block]) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(make(), make()).eval()
    x = torch.randn(BATCH, LENGTH, WIDTH)
    given = Model(module, (x,))
    inspection = inspect(given)
    chosen = [block for block in inspection.blocks if block.default]
    assert [block.fc2 for block in chosen] == [("0.mlp.fc2",), ("1.mlp.fc2",)]
    causal = bool(inspection.causal)
    assert causal is (make is Shifted)  # a token that sees only the one before it is causal
    if causal:
        return
    reference = copy.deepcopy(module)
    for block in reference:
        assert isinstance(block, Block)
        block.mlp = Broadcast(block.mlp)  # type: ignore[assignment]
    edited = cbs.insert(given, plan(inspection, op="cb", layers="all")).module
    with torch.no_grad():
        expected = reference(x)
        assert not torch.allclose(module(x), expected, atol=CLOSE)
        assert torch.allclose(edited(x), expected, atol=CLOSE)


def test_an_adapter_is_chosen_on_request() -> None:
    torch.manual_seed(0)
    inspection = inspect(Model(nn.Sequential(Adapter(), Block()).eval(), (torch.randn(BATCH, LENGTH, WIDTH),)))
    adapter = next(block for block in inspection.blocks if block.fc2 == ("0.up",))
    assert not adapter.default
    assert [site.index for site in plan(inspection, op="cb", layers=str(adapter.index)).sites] == [adapter.index]


class Bottleneck(Block):
    """A narrow MLP without a parallel one is the feed-forward of its network."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(WIDTH, 4), nn.Linear(4, WIDTH)


def test_a_narrow_mlp_without_another_beside_it_is_chosen() -> None:
    inspection = inspect(Model(nn.Sequential(Bottleneck(), Bottleneck()).eval(), (torch.randn(2, LENGTH, WIDTH),)))
    assert [block.default for block in inspection.blocks] == [True, True]
