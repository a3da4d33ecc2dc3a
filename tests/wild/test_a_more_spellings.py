"""More spellings of hidden tokens: attention in loops, masks that hold fractions, tables indexed by token ids.

The reference runs the network itself: tokens of the input are changed one by one, and outputs are compared.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import SurgeryError

WIDTH, TOKENS, CHUNK = 8, 9, 3
MOVED = 1e-6
"""Of outputs of order one in float32; a mean over nine tokens moves by 1e-2."""


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.qkv(self.norm(x)).chunk(3, -1)

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.parts(x)
        return (q @ k.transpose(1, 2) / 3).exp(), v

    def mean(self, x: Tensor, keep: Tensor) -> Tensor:
        kept = self.norm(x) * keep[..., None]
        return self.out(kept.sum(1, keepdim=True) / keep.sum(1)[:, None, None]).expand_as(x)


class OneByOne(Mixer):
    """A query at a time over the keys so far, as a decoder with a cache; the last one sees every key."""

    step = 1

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.parts(x)
        ends = range(self.step, x.shape[1] + 1, self.step)
        rows = [(q[:, end - self.step : end] @ k[:, :end].transpose(1, 2) / 3).softmax(-1) @ v[:, :end] for end in ends]
        return self.out(torch.cat(rows, 1))


class ChunkByChunk(OneByOne):
    """A chunk of queries at a time."""

    step = CHUNK


class FusedChunks(Mixer):
    """The same with the fused attention."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.parts(x)
        ends = range(CHUNK, x.shape[1] + 1, CHUNK)
        rows = [F.scaled_dot_product_attention(q[:, end - CHUNK : end], k[:, :end], v[:, :end]) for end in ends]
        return self.out(torch.cat(rows, 1))


class Tree(Mixer):
    """A token sees its ancestors in a binary tree."""

    def __init__(self) -> None:
        super().__init__()
        mask = torch.eye(TOKENS)
        for token in range(TOKENS):
            up = token
            while up:
                up = (up - 1) // 2
                mask[token, up] = 1
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        weights, v = self.weights(x)
        weights = weights * self.mask
        return self.out(weights / weights.sum(-1, keepdim=True) @ v)


class Running(Mixer):
    """The largest value so far."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(x).cummax(1)[0])


class FractionsOnWeights(Mixer):
    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        weights, v = self.weights(x)
        weights = weights * keep[:, None]
        return self.out(weights / weights.sum(-1, keepdim=True) @ v)


class FractionsOnTheMean(Mixer):
    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return self.mean(x, keep)


class TableOfIds(Mixer):
    """Which token ids count is looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.tensor([0.0] + [1.0] * 9))

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.mean(x, self.counts[ids])


class OtherIds(Mixer):
    """The id of padding is seven, and the example has none."""

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.mean(x, ids.ne(7).float())


class OtherTable(TableOfIds):
    """The same by a table."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = 1.0 - F.one_hot(torch.tensor(7), 10).float()


class Segments(Mixer):
    """Several sequences in one row; tokens see those of their own."""

    def forward(self, x: Tensor, segment: Tensor) -> Tensor:
        weights, v = self.weights(x)
        weights = weights * (segment[:, :, None] == segment[:, None]).float()
        return self.out(weights / weights.sum(-1, keepdim=True) @ v)


class Network(nn.Module):
    def __init__(self, mixer: type[Mixer]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mixers = nn.ModuleList([mixer(), mixer()])
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH)) for _ in range(2)
        )

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        for mixer, mlp in zip(self.mixers, self.mlps, strict=True):
            x = x + mixer(x, *given)
            x = x + mlp(x)
        return x


def given(kind: str) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    fractions = torch.rand(2, TOKENS, generator=generator) * 0.8 + 0.1
    ids = torch.randint(1, 10, (2, TOKENS), generator=generator)
    fractions[:, -3:], ids[:, -3:] = 0, 0
    segments = torch.tensor([[0] * 4 + [1] * 5, [0] * 6 + [1] * 3])
    full = torch.randint(1, 7, (2, TOKENS), generator=generator)
    if kind == "shares":
        return (fractions.clamp(min=0.1),)
    return {"": (), "full": (full,), "fractions": (fractions,), "ids": (ids,), "segments": (segments,)}[kind]


def blind(module: nn.Module, x: Tensor, *rest: Tensor) -> int:
    """Number of pairs of tokens of which the second does not move when the first is changed."""
    with torch.no_grad():
        plain, unseen = module(x, *rest), 0
        for token in range(TOKENS):
            changed = x.clone()
            changed[:, token] *= -3
            unseen += int(((module(changed, *rest) - plain).abs().amax((0, 2)) <= MOVED).sum())
    return unseen


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("mixer", "kind"),
    [
        (FractionsOnWeights, "shares"),
        (FractionsOnTheMean, "shares"),
        (OtherIds, "full"),
        (OtherTable, "full"),
        (OneByOne, ""),
        (ChunkByChunk, ""),
        (FusedChunks, ""),
        (Tree, ""),
        (Running, ""),
        (FractionsOnWeights, "fractions"),
        (FractionsOnTheMean, "fractions"),
        (TableOfIds, "ids"),
        (Segments, "segments"),
    ],
)
def test_hidden_tokens_are_noticed(mixer: type[Mixer], kind: str) -> None:
    module, x = Network(mixer).eval(), torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))
    if kind not in ("shares", "full"):  # there the example itself hides nothing
        assert blind(module, x, *given(kind)) > 0, "tokens of the reference must be hidden"
    found = cbs.inspect(cbs.Model(module, (x, *given(kind))))
    assert len(found.blocks) == 2
    with pytest.raises(SurgeryError, match="CB-LEAK"):
        cbs.plan(found, op="cb", layers="all")
