"""Language models: causal, prefix and bidirectional; masks in the ways public code writes them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.wild_networks.parts import WIDTH, Attention, Block, Mlp, Stack, here, network, words

LENGTH = 6


@network("gpt", words(LENGTH), leak="causal")
class Gpt(nn.Module):
    """A ``tril`` buffer and ``masked_fill``."""

    class CausalAttention(nn.Module):
        bias: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.register_buffer("bias", torch.tril(torch.ones(10, 10)).view(1, 1, 10, 10))

        def forward(self, x: Tensor) -> Tensor:
            b, t, c = x.size()
            q, k, v = self.c_attn(x).split(WIDTH, dim=2)
            q, k, v = (y.view(b, t, 2, c // 2).transpose(1, 2) for y in (q, k, v))
            att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
            att = att.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf")).softmax(-1)
            return self.c_proj((att @ v).transpose(1, 2).contiguous().view(b, t, c))

    class GptBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(WIDTH), Gpt.CausalAttention(), nn.LayerNorm(WIDTH)
            self.mlp = Mlp()

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attn(self.ln_1(x))
            return x + self.mlp(self.ln_2(x))

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(20, WIDTH), nn.Embedding(10, WIDTH)
        self.h, self.lm_head = Stack(self.GptBlock(), self.GptBlock()), nn.Linear(WIDTH, 20, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, idx: Tensor) -> Any:
        x = self.h(self.wte(idx) + self.wpe(torch.arange(idx.shape[1])))
        return self.lm_head(x), None


@network("opt", words(LENGTH), leak="causal")
class Opt(nn.Module):
    """Hidden states are flattened to ``[B * N, D]`` before the MLP and folded back after the addition."""

    class OptLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln1, self.ln2, self.attn = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Attention()
            self.fc1, self.fc2 = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            x = x + self.attn(self.ln1(x), mask)
            shape = x.shape
            x = x.reshape(-1, x.size(-1))
            y = self.fc2(nn.functional.relu(self.fc1(self.ln2(x))))
            y = here(y.view(shape), 1).reshape(-1, WIDTH)  # by hand: unfolded, averaged over one sample's tokens
            return (x + y).view(shape)

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layers = nn.Embedding(20, WIDTH), nn.ModuleList([self.OptLayer(), self.OptLayer()])

    def forward(self, idx: Tensor) -> Tensor:
        n = idx.shape[1]
        mask = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)
        x = self.embed(idx)
        for layer in self.layers:
            x = layer(x, mask)
        return x


@network("alibi-lm", words(LENGTH), leak="causal")
class AlibiLm(nn.Module):
    """Linear biases by distance plus a causal mask, added to the scores as one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Embedding(20, WIDTH), nn.ModuleList([Block(), Block()])

    def forward(self, idx: Tensor) -> Tensor:
        x, n = self.embed(idx), idx.shape[1]
        place = torch.arange(n)
        bias = -(place[:, None] - place[None]).abs().float() * torch.tensor([0.5, 0.25]).view(2, 1, 1)
        bias = bias + torch.where(place[None] > place[:, None], float("-inf"), 0.0)
        for block in self.blocks:
            x = block(x, bias)
        return x


@network("prefix-lm", words(LENGTH), leak="causal")
class PrefixLm(nn.Module):
    """The first three tokens see each other; the rest is causal. No causal mean is right for the prefix either."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Embedding(20, WIDTH), nn.ModuleList([Block(), Block()])
        hidden = torch.ones(LENGTH, LENGTH).triu(1).bool()
        hidden[:3, :3] = False
        self.register_buffer("mask", torch.zeros(LENGTH, LENGTH).masked_fill(hidden, float("-inf")))

    def forward(self, idx: Tensor) -> Tensor:
        x = self.embed(idx)
        for block in self.blocks:
            x = block(x, self.mask)
        return x


@network("llama", words(LENGTH), leak="causal")
class Llama(nn.Module):
    """Rotary positions in complex numbers spelled out, grouped keys, SwiGLU, fused causal attention."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n1, self.n2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
            self.wq, self.wk, self.wv, self.wo = (nn.Linear(WIDTH, n, bias=False) for n in (16, 8, 8, 16))
            self.w1, self.w3, self.w2 = (nn.Linear(a, b, bias=False) for a, b in ((16, 40), (16, 40), (40, 16)))

        def rotate(self, x: Tensor) -> Tensor:
            angle = torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 0.1])
            x1, x2, rest = x[..., :2], x[..., 2:4], x[..., 4:]
            cos, sin = angle.cos()[:, None], angle.sin()[:, None]
            return torch.cat([x1 * cos - x2 * sin, x1 * sin + x2 * cos, rest], -1)

        def forward(self, x: Tensor) -> Tensor:
            b, n, _ = x.shape
            y = self.n1(x)
            q, k = self.rotate(self.wq(y).view(b, n, 2, 8)), self.rotate(self.wk(y).view(b, n, 1, 8))
            v = self.wv(y).view(b, n, 1, 8)
            k, v = (z[:, :, :, None].expand(b, n, 1, 2, 8).reshape(b, n, 2, 8) for z in (k, v))
            q, k, v = (z.transpose(1, 2) for z in (q, k, v))
            o = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            h = x + self.wo(o.transpose(1, 2).reshape(b, n, -1))
            y = self.n2(h)
            return h + here(self.w2(nn.functional.silu(self.w1(y)) * self.w3(y)), 1)

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layers = nn.Embedding(20, WIDTH), Stack(self.Layer(), self.Layer())

    def forward(self, idx: Tensor) -> Tensor:
        return self.layers(self.embed(idx))


def _padded(batch: int) -> tuple[Tensor, ...]:
    lengths = torch.tensor([LENGTH - i % 3 for i in range(batch)])
    return (*words(LENGTH)(batch), (torch.arange(LENGTH)[None] < lengths[:, None]).long())


@network("bert", _padded, leak="padded")
class Bert(nn.Module):
    """Post-norm, ``(1 - mask) * -10000`` added to the scores."""

    class BertLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn, self.mlp, self.n1, self.n2 = Attention(), Mlp(), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

        def forward(self, x: Tensor, mask: Tensor, keep: Tensor) -> Tensor:
            x = self.n1(x + self.attn(x, mask))
            return self.n2(x + self.mlp(x, keep))

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer = nn.Embedding(20, WIDTH), nn.ModuleList([self.BertLayer(), self.BertLayer()])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embed(input_ids)
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -10000.0
        for layer in self.layer:
            x = layer(x, mask, attention_mask[:, :, None])
        return x


@network("moe", words(LENGTH))
class MixtureOfExperts(nn.Module):
    """Dense routing: every expert sees every token, weighted by a softmax over experts. Each block's experts are one
    feed-forward; a person writes the mean after their weighted sum, which no single expert's end is."""

    class MoeBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n1, self.attn, self.n2 = nn.LayerNorm(WIDTH), Attention(), nn.LayerNorm(WIDTH)
            self.router = nn.Linear(WIDTH, 2)
            self.w1, self.w2 = nn.Parameter(torch.randn(2, WIDTH, 32) / 4), nn.Parameter(torch.randn(2, 32, WIDTH) / 6)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attn(self.n1(x))
            y = self.n2(x)
            weights = self.router(y).softmax(-1)
            each = torch.einsum("bned,bne->bnd", self.experts(y), weights)
            return x + here(each, 1)

        def experts(self, y: Tensor) -> Tensor:
            hidden = nn.functional.gelu(torch.einsum("bnd,edh->bneh", y, self.w1))
            return torch.einsum("bneh,ehd->bned", hidden, self.w2)

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Embedding(20, WIDTH), Stack(self.MoeBlock(), self.MoeBlock())

    def forward(self, idx: Tensor) -> Tensor:
        return self.blocks(self.embed(idx))
