"""Attention written in many ways, each with its expected properties and a plain reference for its map.

Every network keeps its map in ``self.map`` when it runs: ``[batch * windows, heads, queries, keys]``, the windows of a
sample beside each other. That is the reference for the maps that cbsurgeon computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS, TOKENS = 16, 4, 9
SIZE = WIDTH // HEADS


class Base(nn.Module):
    """Projections of one attention; a residual branch around it."""

    def __init__(self, kv: int = HEADS) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.q = nn.Linear(WIDTH, WIDTH)
        self.k = nn.Linear(WIDTH, kv * SIZE)
        self.v = nn.Linear(WIDTH, kv * SIZE)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.map: Tensor | None = None

    def heads(self, x: Tensor, count: int = HEADS) -> Tensor:
        return x.unflatten(-1, (count, SIZE)).transpose(1, 2)

    def qkv(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        y = x if y is None else y
        return self.heads(self.q(x)), self.heads(self.k(y)), self.heads(self.v(y))

    def merge(self, x: Tensor) -> Tensor:
        return self.out(x.transpose(1, 2).flatten(2))

    def keep(self, weights: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():
            self.map = weights.detach().float()
        return weights

    def attend(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attend(self.norm(x))


class Plain(Base):
    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        return self.merge(self.keep((q @ k.transpose(-2, -1) / math.sqrt(SIZE)).softmax(-1)) @ v)


class Folded(Base):
    """Batch and heads in one axis, ``bmm``, softmax in float32."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (one.flatten(0, 1) for one in self.qkv(x))
        weights = F.softmax(torch.bmm(q * SIZE**-0.5, k.mT), dim=-1, dtype=torch.float32).to(q.dtype)
        self.keep(weights.unflatten(0, (-1, HEADS)))
        return self.merge(F.dropout(torch.bmm(weights, v), 0.1, self.training).unflatten(0, (-1, HEADS)))


class Biased(Base):
    """A bias per head and pair of positions, added by ``baddbmm``."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(HEADS, TOKENS, TOKENS))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (one.flatten(0, 1) for one in self.qkv(x))
        bias = self.bias.expand(x.shape[0], -1, -1, -1).flatten(0, 1)
        weights = torch.baddbmm(bias, q, k.mT, alpha=SIZE**-0.5).softmax(-1)
        self.keep(weights.unflatten(0, (-1, HEADS)))
        return self.merge(torch.bmm(weights, v).unflatten(0, (-1, HEADS)))


class Einsum(Base):
    """Keys in front of queries, and heads last, as in XLNet."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (one.permute(2, 0, 1, 3) for one in self.qkv(x))
        weights = torch.einsum("ibnd,jbnd->jibn", q, k).mul(SIZE**-0.5).softmax(0)
        self.keep(weights.permute(2, 3, 1, 0))
        return self.out(torch.einsum("jibn,jbnd->bind", weights, v).flatten(2))


class Dotted(Base):
    """Einsum with ``...`` for the axes of samples and heads."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        weights = torch.einsum("...qd,...kd->...qk", q, k).mul(SIZE**-0.5).softmax(-1)
        self.keep(weights)
        return self.merge(torch.einsum("...qk,...kd->...qd", weights, v))


class Columns(Base):
    """Channels before tokens: the values are the left factor of the product with the weights."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (one.mT for one in self.qkv(x))
        weights = (k.mT @ q * SIZE**-0.5).softmax(-2)
        self.keep(weights.mT)
        return self.merge((v @ weights).mT)


class Spelled(Base):
    """The softmax and the product with the values in elementary steps."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        scores = q @ k.mT * SIZE**-0.5
        raised = torch.exp(scores - scores.amax(-1, keepdim=True))
        weights = self.keep(raised / raised.sum(-1, keepdim=True))
        return self.merge((weights.unsqueeze(-1) * v.unsqueeze(2)).sum(3))


class Fused(Base):
    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        self.keep((q @ k.mT * SIZE**-0.5).softmax(-1))
        return self.merge(F.scaled_dot_product_attention(q, k, v))


class FusedCausal(Base):
    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        hidden = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
        self.keep((q @ k.mT * 0.3).masked_fill(hidden, -math.inf).softmax(-1))
        return self.merge(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3))


class FusedBias(Base):
    """A bias that is added, as in Swin V2 or BEiT with fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(1, HEADS, TOKENS, TOKENS))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        self.keep((q @ k.mT * SIZE**-0.5 + self.bias).softmax(-1))
        return self.merge(F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias))


class Grouped(Base):
    """Two heads of keys and values for four of queries."""

    def __init__(self) -> None:
        super().__init__(kv=2)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x), 2), self.heads(self.v(x), 2)
        self.keep((q @ k.repeat_interleave(2, 1).mT * SIZE**-0.5).softmax(-1))
        return self.merge(F.scaled_dot_product_attention(q, k, v, enable_gqa=True))


class GroupedSpelled(Grouped):
    """The same, keys and values repeated."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x), 2), self.heads(self.v(x), 2)
        k, v = (one[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for one in (k, v))
        return self.merge(self.keep((q @ k.mT * SIZE**-0.5).softmax(-1)) @ v)


class Talking(Base):
    """Projections over the heads before and after the softmax (CaiT); the map is the one the softmax gives."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(HEADS, HEADS), nn.Linear(HEADS, HEADS)
        self.mixed: Tensor | None = None

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        scores = self.before((q @ k.mT * SIZE**-0.5).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        mixed = self.after(self.keep(scores.softmax(-1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if not torch.compiler.is_exporting():
            self.mixed = mixed.detach()
        return self.merge(mixed @ v)


class Sinks(Base):
    """One more score per head that takes weight from the keys and is cut off after the softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.sinks = nn.Parameter(torch.randn(HEADS))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        sinks = self.sinks.reshape(1, -1, 1, 1).expand(x.shape[0], -1, TOKENS, -1)
        weights = torch.cat([q @ k.mT * SIZE**-0.5, sinks], -1).softmax(-1)[..., :-1]
        return self.merge(self.keep(weights) @ v)


class Cross(Base):
    """Queries from one input, keys from another with padding."""

    def forward(self, x: Tensor, y: Tensor, valid: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x), y)
        scores = q @ k.mT * SIZE**-0.5 + torch.where(valid[:, None, None] == 1, 0.0, torch.finfo(x.dtype).min)
        return x + self.merge(self.keep(scores.softmax(-1)) @ v)


class Latents(Base):
    """Learned queries (Perceiver, attention pooling)."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, 3, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.latents, self.norm(x))
        return self.merge(self.keep((q @ k.mT * SIZE**-0.5).softmax(-1)) @ v)


class WithClassToken(nn.Module):
    """Image patches on a 3x3 grid, a class token before them, two register tokens after them; two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.registers = nn.Parameter(torch.randn(1, 2, WIDTH))
        self.blocks = nn.Sequential(Fused(), Plain())
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x, self.registers.expand(x.shape[0], -1, -1)], 1)
        return self.head(self.blocks(x)[:, 0])


class ClassQuery(Base):
    """Only the class token asks, its own stream apart from the patches (CaiT)."""

    def forward(self, token: Tensor, x: Tensor) -> Tensor:
        both = self.norm(torch.cat([token, x], 1))
        q, k, v = self.qkv(both[:, :1], both)
        return token + self.merge(self.keep((q @ k.mT * SIZE**-0.5).softmax(-1)) @ v)


class ClassAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.first, self.second = ClassQuery(), ClassQuery()
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        token = self.second(self.first(self.token.expand(x.shape[0], -1, -1), x), x)
        return self.head(torch.cat([token, x], 1)[:, 0])


class Windows(Base):
    """2x2 windows of a 4x4 grid, shifted by one, with the mask of Swin."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift
        area = torch.zeros(4, 4)
        for i, rows in enumerate((slice(0, -2), slice(-2, -1), slice(-1, None))):
            for j, columns in enumerate((slice(0, -2), slice(-2, -1), slice(-1, None))):
                area[rows, columns] = 3 * i + j
        groups = self.windows(area[None, :, :, None]).squeeze(-1)
        self.register_buffer("mask", torch.where(groups[:, :, None] == groups[:, None], 0.0, -100.0))

    def windows(self, x: Tensor) -> Tensor:
        b, _, _, c = x.shape
        return x.reshape(b, 2, 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)

    def attend(self, x: Tensor) -> Tensor:
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x
        q, k, v = self.qkv(self.windows(x))
        scores = q @ k.mT * SIZE**-0.5
        if self.shift:
            scores = (scores.unflatten(0, (-1, 4)) + self.mask[None, :, None]).flatten(0, 1)
        x = self.merge(self.keep(scores.softmax(-1)) @ v)
        x = x.reshape(-1, 2, 2, 2, 2, WIDTH).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4, WIDTH)
        return torch.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x


class Swin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.blocks = nn.Sequential(Windows(0), Windows(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.patches(x).permute(0, 2, 3, 1)).mean((1, 2))


class Multihead(nn.Module):
    """``nn.MultiheadAttention`` with a key padding mask, and its weights given back."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.map: Tensor | None = None

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        y = self.norm(x)
        y, weights = self.attn(y, y, y, key_padding_mask=padding, average_attn_weights=False)
        if not torch.compiler.is_exporting():
            self.map = weights.detach()
        return x + y


class Decoder(nn.Module):
    """Learned queries that see each other before they see the input (DETR): no input reaches the first map."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 3, WIDTH))
        self.own, self.other = Plain(), Asking()

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.own(self.queries.expand(x.shape[0], -1, -1)), x)


class Asking(Base):
    """Queries from one tensor, keys from another, no mask."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x), y)
        return x + self.merge(self.keep((q @ k.mT * SIZE**-0.5).softmax(-1)) @ v)


class Slots(Base):
    """Chunks of neighbours, skewed by padding and a view (Longformer): the map is rearranged beyond recognition."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        scores = F.pad(q @ k.mT * SIZE**-0.5, (0, 1)).flatten(2)[..., :-TOKENS].unflatten(-1, (TOKENS, TOKENS))
        weights = F.pad(scores.softmax(-1), (0, 1)).flatten(2)[..., :-TOKENS].unflatten(-1, (TOKENS, TOKENS))
        return self.merge(weights @ v)


# without a map of queries by keys


class LinearAttention(Base):
    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        return self.merge(q @ (k.mT @ v) / (q @ k.sum(2, keepdim=True).mT))


class Efficient(Base):
    """Softmax over the channels of the queries and over the tokens of the keys, apart from each other."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        return self.merge(q.softmax(-1) @ (k.softmax(-2).mT @ v))


class CrossCovariance(Base):
    """XCiT: channels are weighed."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (F.normalize(one.mT, dim=-1) for one in self.qkv(x))
        return self.merge(((q @ k.mT).softmax(-1) @ v).mT)


class Outlook(Base):
    """VOLO: weights come from a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Linear(WIDTH, HEADS * TOKENS)

    def attend(self, x: Tensor) -> Tensor:
        weights = self.weights(x).unflatten(-1, (HEADS, TOKENS)).transpose(1, 2).softmax(-1)
        return self.merge(weights @ self.heads(self.v(x)))


class Router(nn.Module):
    """Experts weighed per token by a softmax over a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 3)
        self.experts = nn.Parameter(torch.randn(3, WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(-1)
        return x + torch.einsum("bte,betd->btd", weights, torch.einsum("btc,ecd->betd", x, self.experts))


@dataclass(frozen=True)
class Case:
    """A network, its inputs, and the truth about its attentions.

    Attributes:
        build: makes the network.
        inputs: makes its inputs for two samples.
        truth: one dictionary of expected fields per attention, in order.
        maps: gives the modules whose ``map`` is the reference, in the same order.
        rejected: reasons expected among what was rejected.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    truth: tuple[dict[str, Any], ...]
    maps: Callable[[nn.Module], list[nn.Module]] = field(default=lambda module: [module])
    rejected: tuple[str, ...] = ()

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        return self.build().eval()


def sequence() -> tuple[Tensor, ...]:
    return (torch.randn(2, TOKENS, WIDTH),)


def picture() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 12, 12),)


def _self(**more: Any) -> tuple[dict[str, Any], ...]:
    return ({"heads": HEADS, "queries": TOKENS, "keys": TOKENS, "kind": "self", "windows": 1, **more},)


_CLASS = {"learned": (0,), "class_token": 0, "grid": (3, 3), "keys": 10, "queries": 1, "kind": "class"}
_TOKENS = {"learned": (0, 10, 11), "class_token": 0, "grid": (3, 3), "keys": 12, "queries": 12, "kind": "self"}
_WINDOW = {"kind": "window", "windows": 4, "grid": (2, 2), "queries": 4, "keys": 4, "heads": HEADS}
_PADDED = torch.tensor([[0] * 9, [0] * 6 + [1] * 3]).bool()

CASES: dict[str, Case] = {
    "plain": Case(Plain, sequence, _self(causal=False, masked=False, mixed="")),
    "folded": Case(Folded, sequence, _self()),
    "biased": Case(Biased, sequence, _self(masked=False)),
    "einsum": Case(Einsum, sequence, _self()),
    "dotted": Case(Dotted, sequence, _self()),
    "columns": Case(Columns, sequence, _self()),
    "spelled": Case(Spelled, sequence, _self()),
    "fused": Case(Fused, sequence, _self(causal=False)),
    "fused-causal": Case(FusedCausal, sequence, _self(causal=True, masked=False)),
    "fused-bias": Case(FusedBias, sequence, _self(masked=False)),
    "grouped": Case(Grouped, sequence, _self()),
    "grouped-spelled": Case(GroupedSpelled, sequence, _self()),
    "talking": Case(Talking, sequence, _self(mixed="both")),
    "sinks": Case(Sinks, sequence, _self()),
    "multihead": Case(Multihead, lambda: (*sequence(), _PADDED), _self(masked=True)),
    "cross": Case(
        Cross,
        lambda: (torch.randn(2, 5, WIDTH), *sequence(), (~_PADDED).long()),
        _self(queries=5, kind="cross", masked=True),
    ),
    "latents": Case(Latents, sequence, _self(queries=3, kind="cross")),
    "class-token": Case(WithClassToken, picture, (_TOKENS, _TOKENS), lambda one: list(one.blocks)),
    "class-attention": Case(ClassAttention, picture, (_CLASS, _CLASS), lambda one: [one.first, one.second]),
    "swin": Case(
        Swin,
        lambda: (torch.randn(2, 3, 16, 16),),
        ({**_WINDOW, "masked": False}, {**_WINDOW, "masked": True}),
        lambda one: list(one.blocks),
    ),
    "decoder": Case(
        Decoder,
        sequence,
        ({"kind": "self", "queries": 3, "keys": 3}, {"kind": "cross", "queries": 3, "keys": TOKENS}),
        lambda one: [one.own, one.other],
    ),
    "rearranged": Case(Slots, sequence, (), rejected=("map-undecided",)),
    "linear": Case(LinearAttention, sequence, (), rejected=("linear-attention",)),
    "efficient": Case(Efficient, sequence, (), rejected=("linear-attention",)),
    "cross-covariance": Case(CrossCovariance, sequence, (), rejected=("channel-attention",)),
    "outlook": Case(Outlook, sequence, (), rejected=("projected-weights",)),
    "router": Case(Router, sequence, (), rejected=("projected-weights",)),
}
