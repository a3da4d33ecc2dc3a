"""Several towers, cross-attention, sets, points, sound; sequence-first streams."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.wild_networks.parts import WIDTH, Attention, Block, Mlp, Patches, Stack, here, network, noise, words


class Cross(nn.Module):
    """Attention from one sequence to another, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        k, v = self.kv(memory).chunk(2, -1)
        scores = self.q(x) @ k.transpose(1, 2) * WIDTH**-0.5
        if mask is not None:
            scores = scores.masked_fill(mask, float("-inf"))
        return self.proj(scores.softmax(-1) @ v)


def _pair(batch: int) -> tuple[Any, ...]:
    return (*noise(3, 16, 16)(batch), *words(6)(batch))


@network("clip", _pair, blocks=4, leak="causal", layers="visual.transformer:all")
class Clip(nn.Module):
    """A visual tower and a causal text tower, both sequence-first inside; only the visual one is free of leaks."""

    class ResidualBlock(nn.Module):
        def __init__(self, causal: bool) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(WIDTH, 2)
            self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.c_fc, self.c_proj, self.causal = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH), causal

        def forward(self, x: Tensor) -> Tensor:
            mask = torch.full((x.shape[0], x.shape[0]), float("-inf")).triu(1) if self.causal else None
            y = self.ln_1(x)
            x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
            y = self.c_fc(self.ln_2(x))
            y = self.c_proj(y * torch.sigmoid(1.702 * y))
            return x + (y if self.causal else here(y, 0))

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.cls = nn.Conv2d(3, WIDTH, 4, 4), nn.Parameter(torch.randn(WIDTH))
            self.transformer = nn.Sequential(Clip.ResidualBlock(False), Clip.ResidualBlock(False))

        def forward(self, image: Tensor) -> Tensor:
            x = self.conv1(image).flatten(2).permute(0, 2, 1)
            x = torch.cat([self.cls + torch.zeros(x.shape[0], 1, WIDTH), x], 1)
            return self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)[:, 0]

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.embed = self.Tower(), nn.Embedding(20, WIDTH)
        self.transformer = nn.Sequential(self.ResidualBlock(True), self.ResidualBlock(True))
        self.logit_scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        a = self.visual(image)
        t = self.transformer(self.embed(text).permute(1, 0, 2)).permute(1, 0, 2)
        t = t[torch.arange(t.shape[0]), text.argmax(-1)]
        a, t = a / a.norm(dim=1, keepdim=True), t / t.norm(dim=1, keepdim=True)
        return torch.cat([a, t], -1) * self.logit_scale.exp()


@network("detr", noise(3, 16, 16), blocks=2)
class Detr(nn.Module):
    """Sequence-first encoder and decoder, post-norm, learned queries repeated for the batch."""

    class Layer(nn.Module):
        def __init__(self, decoder: bool) -> None:
            super().__init__()
            self.self_attn = nn.MultiheadAttention(WIDTH, 2)
            self.cross = nn.MultiheadAttention(WIDTH, 2) if decoder else None
            self.linear1, self.linear2 = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
            self.norm1, self.norm2, self.norm3 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

        def forward(self, x: Tensor, pos: Tensor, memory: Any = None) -> Tensor:
            q = x + pos
            x = self.norm1(x + self.self_attn(q, q, value=x)[0])
            if self.cross is not None:
                x = self.norm3(x + self.cross(x + pos, memory, value=memory)[0])
            return self.norm2(x + here(self.linear2(nn.functional.relu(self.linear1(x))), 0))

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.query_embed = nn.Conv2d(3, WIDTH, 4, 4), nn.Embedding(5, WIDTH)
        self.pos, self.encoder, self.decoder = (
            nn.Parameter(torch.randn(16, 1, WIDTH)),
            self.Layer(False),
            self.Layer(True),
        )

    def forward(self, images: Tensor) -> Tensor:
        src = self.backbone(images)
        b = src.shape[0]
        src = src.flatten(2).permute(2, 0, 1)
        memory = self.encoder(src, self.pos.repeat(1, b, 1))
        queries = self.query_embed.weight.unsqueeze(1).repeat(1, b, 1)
        return self.decoder(torch.zeros_like(queries), queries, memory).transpose(0, 1)


@network("whisper-encoder", noise(8, 12))
class WhisperEncoder(nn.Module):
    """Convolutions over time, sinusoids, pre-norm blocks with ``nn.Sequential`` MLPs."""

    class AudioBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn, self.attn_ln, self.mlp_ln = Attention(), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.mlp = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attn(self.attn_ln(x))
            return x + here(self.mlp(self.mlp_ln(x)), 1)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(8, WIDTH, 3, padding=1), nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.register_buffer("pos", torch.randn(6, WIDTH))
        self.blocks = Stack(self.AudioBlock(), self.AudioBlock())

    def forward(self, mel: Tensor) -> Tensor:
        x = nn.functional.gelu(self.conv2(nn.functional.gelu(self.conv1(mel)))).permute(0, 2, 1)
        return self.blocks((x + self.pos).to(x.dtype))


@network("perceiver", noise(12, WIDTH), blocks=2)
class Perceiver(nn.Module):
    """Learned latents read the input by cross-attention, then attend to themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.latents, self.cross = nn.Parameter(torch.randn(5, WIDTH)), Cross()
        self.norm, self.norm_in, self.norm_ff = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.ff, self.block = Mlp(), Block()

    def forward(self, data: Tensor) -> Tensor:
        x = self.latents.unsqueeze(0).expand(data.shape[0], -1, -1)
        x = x + self.cross(self.norm(x), self.norm_in(data))
        x = x + self.ff(self.norm_ff(x))
        return self.block(x).mean(1)


@network("set-transformer", noise(7, 4), blocks=3)
class SetTransformer(nn.Module):
    """Induced attention: two attention blocks whose feed-forward is one projection and a ReLU have no MLP; these have
    two projections, written as ``O + fc2(relu(fc1(O)))``."""

    class Mab(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cross, self.fc1, self.fc2 = Cross(), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
            self.ln0, self.ln1 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

        def forward(self, q: Tensor, k: Tensor) -> Tensor:
            o = self.ln0(q + self.cross(q, k))
            return self.ln1(o + here(self.fc2(nn.functional.relu(self.fc1(o))), 1))

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inducing = nn.Linear(4, WIDTH), nn.Parameter(torch.randn(1, 3, WIDTH))
        self.mab0, self.mab1, self.mab2 = self.Mab(), self.Mab(), self.Mab()

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        h = self.mab0(self.inducing.repeat(x.shape[0], 1, 1), x)
        x = self.mab1(x, h)
        return self.mab2(x, x).sum(1)


@network("point-transformer", noise(10, 3))
class PointTransformer(nn.Module):
    """Offset attention on ``[B, C, N]`` with ``Conv1d``; no positional encoding."""

    class OffsetBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.v = nn.Conv1d(WIDTH, 4, 1, bias=False), nn.Conv1d(WIDTH, WIDTH, 1)
            self.trans, self.after = nn.Conv1d(WIDTH, WIDTH, 1), nn.BatchNorm1d(WIDTH)
            self.f1, self.f2, self.bn = nn.Conv1d(WIDTH, 32, 1), nn.Conv1d(32, WIDTH, 1), nn.BatchNorm1d(WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            q = self.q(x)
            a = (q.permute(0, 2, 1) @ q).softmax(-1)
            a = a / (1e-9 + a.sum(1, keepdim=True))
            r = self.v(x) @ a
            x = x + torch.relu(self.after(self.trans(x - r)))
            return x + here(self.f2(torch.relu(self.f1(self.bn(x)))), 2)

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Conv1d(3, WIDTH, 1), nn.Sequential(self.OffsetBlock(), self.OffsetBlock())

    def forward(self, points: Tensor) -> Tensor:
        return self.blocks(self.embed(points.permute(0, 2, 1))).max(2)[0]


@network("sequence-first", noise(16, 16, 3))
class SequenceFirst(nn.Module):
    """``nn.TransformerEncoderLayer`` in its default, sequence-first layout, behind a batch-first input."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = Patches()
        self.layers = nn.ModuleList([self.Layer(), self.Layer()])

    class Layer(nn.TransformerEncoderLayer):
        def __init__(self) -> None:
            super().__init__(WIDTH, 2, 32)

        def _ff_block(self, x: Tensor) -> Tensor:
            return self.dropout2(here(self.linear2(self.dropout(self.activation(self.linear1(x)))), 0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x.permute(0, 3, 1, 2)).transpose(0, 1)
        for layer in self.layers:
            x = layer(x)
        return x.transpose(0, 1)


def _prompted(batch: int) -> tuple[Any, ...]:
    image, text = noise(9, WIDTH)(batch), noise(7, WIDTH)(batch + 1)
    return (*image, text[0][:batch], torch.arange(7) < torch.arange(3, 3 + batch)[:, None])


@network("text-to-image", _prompted)
class TextToImage(nn.Module):
    """A diffusion transformer: image tokens attend to each other, and to a text whose padding is masked."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn, self.cross, self.mlp = Attention(), Cross(), Mlp()
            self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))

        def forward(self, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
            x = x + self.attn(self.norms[0](x))
            x = x + self.cross(self.norms[1](x), text, mask)
            return x + self.mlp(self.norms[2](x))

    def __init__(self) -> None:
        super().__init__()
        self.caption, self.layers = nn.Linear(WIDTH, WIDTH), nn.ModuleList(self.Layer() for _ in range(2))

    def forward(self, x: Tensor, text: Tensor, keep: Tensor) -> Tensor:
        memory, mask = self.caption(text), ~keep[:, None, :]
        for layer in self.layers:
            x = layer(x, memory, mask)
        return x
