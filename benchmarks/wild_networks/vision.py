"""Image transformers on one sequence of patches."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.wild_networks.parts import WIDTH, Attention, Block, Mlp, Patches, Stack, here, network, noise

IMAGE = noise(3, 16, 16)


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((WIDTH,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


@network("dinov2", IMAGE)
class DinoV2(nn.Module):
    """Mask tokens, interpolated positions, nested blocks in chunks, ``forward(*args, is_training=False, **kwargs)``."""

    class NestedBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.attn, self.ls1 = nn.LayerNorm(WIDTH), Attention(), LayerScale()
            self.norm2, self.mlp, self.ls2 = nn.LayerNorm(WIDTH), Mlp(), LayerScale()

        def forward(self, x: Tensor) -> Tensor:
            def attn_residual(x: Tensor) -> Tensor:
                return self.ls1(self.attn(self.norm1(x)))

            def ffn_residual(x: Tensor) -> Tensor:
                return self.ls2(self.mlp(self.norm2(x)))

            x = x + attn_residual(x)
            return x + ffn_residual(x)

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed, self.cls = Patches(), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.registers, self.mask_token = nn.Parameter(torch.randn(1, 2, WIDTH)), nn.Parameter(torch.zeros(1, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + 9, WIDTH))
        chunk = nn.ModuleList([self.NestedBlock()])
        self.blocks = nn.ModuleList([chunk, nn.ModuleList([nn.Identity(), self.NestedBlock()])])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Identity()

    def interpolate(self, x: Tensor) -> Tensor:
        patch = self.pos_embed[:, 1:].reshape(1, 3, 3, WIDTH).permute(0, 3, 1, 2)
        side = int(math.sqrt(x.shape[1] - 1))
        patch = nn.functional.interpolate(patch, size=(side, side), mode="bicubic", antialias=False)
        return torch.cat([self.pos_embed[:, :1], patch.permute(0, 2, 3, 1).view(1, -1, WIDTH)], 1).to(x.dtype)

    def forward_features(self, x: Any, masks: Tensor | None = None) -> dict[str, Any]:
        b = x.shape[0]
        x = self.patch_embed(x)
        if masks is not None:
            x = torch.where(masks.unsqueeze(-1), self.mask_token.unsqueeze(0), x)
        x = torch.cat([self.cls.expand(b, -1, -1), x], 1)
        x = x + self.interpolate(x)
        x = torch.cat([x[:, :1], self.registers.expand(b, -1, -1), x[:, 1:]], 1)
        for chunk in self.blocks:
            for block in chunk:
                x = block(x)
        y = self.norm(x)
        return {"x_norm_clstoken": y[:, 0], "x_norm_patchtokens": y[:, 3:], "x_prenorm": x, "masks": masks}

    def forward(self, *args: Any, is_training: bool = False, **kwargs: Any) -> Any:
        ret = self.forward_features(*args, **kwargs)
        return ret if is_training else self.head(ret["x_norm_clstoken"])


@network("mae", IMAGE, blocks=3)
class MaskedAutoencoder(nn.Module):
    """Keeps a fixed subset of patches, decodes all with mask tokens; two stacks."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed, self.mask_token = Patches(), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.blocks, self.decoder_embed = nn.ModuleList([Block(), Block()]), nn.Linear(WIDTH, 12)
        self.mask_token2 = nn.Parameter(torch.randn(1, 1, 12))
        self.decoder_blocks, self.decoder_norm = nn.ModuleList([Block(12)]), nn.LayerNorm(12)
        self.register_buffer("keep", torch.tensor([0, 3, 5, 6, 9, 12]))
        self.register_buffer("restore", torch.randperm(16, generator=torch.Generator().manual_seed(0)))

    def forward(self, imgs: Tensor) -> Tensor:
        x = self.patch_embed(imgs)
        x = torch.gather(x, 1, self.keep.view(1, -1, 1).expand(x.shape[0], -1, WIDTH))
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(x)
        x = torch.cat([x, self.mask_token2.repeat(x.shape[0], 16 - x.shape[1], 1)], 1)
        x = torch.gather(x, 1, self.restore.view(1, -1, 1).expand(x.shape[0], -1, 12))
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_norm(x)


def _time(batch: int) -> tuple[Tensor, ...]:
    return (*noise(4, 8, 8)(batch), torch.arange(batch) * 10.0 + 1)


@network("dit", _time)
class DiffusionTransformer(nn.Module):
    """Adaptive norms from a time embedding, gates on both branches; unpatchified at the end."""

    class DiTBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm(WIDTH, elementwise_affine=False)
            self.attn, self.mlp = Attention(), Mlp()
            self.norm2 = nn.LayerNorm(WIDTH, elementwise_affine=False)
            self.adaLN = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            s1, c1, g1, s2, c2, g2 = self.adaLN(c).chunk(6, dim=1)
            x = x + g1.unsqueeze(1) * self.attn(self.norm1(x) * (1 + c1.unsqueeze(1)) + s1.unsqueeze(1))
            return x + g2.unsqueeze(1) * self.mlp(self.norm2(x) * (1 + c2.unsqueeze(1)) + s2.unsqueeze(1))

    def __init__(self) -> None:
        super().__init__()
        self.x_embedder = Patches(size=2, channels=4)
        self.t_embedder = nn.Sequential(nn.Linear(8, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.blocks = nn.ModuleList([self.DiTBlock(), self.DiTBlock()])
        self.final = nn.Linear(WIDTH, 16)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        freqs = torch.exp(-math.log(10000) * torch.arange(4, dtype=torch.float32) / 4)
        args = t[:, None] * freqs[None]
        c = self.t_embedder(torch.cat([args.cos(), args.sin()], -1))
        x = self.x_embedder(x)
        for block in self.blocks:
            x = block(x, c)
        x = self.final(x).reshape(x.shape[0], 4, 4, 2, 2, 4)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(x.shape[0], 4, 8, 8)


@network("u-vit", _time, blocks=3)
class UVit(nn.Module):
    """Long skips joined by concatenation and a linear layer; the time is a token."""

    class SkipBlock(Block):
        def __init__(self) -> None:
            super().__init__()
            self.skip_linear = nn.Linear(2 * WIDTH, WIDTH)

        def forward(self, x: Tensor, skip: Any = None) -> Tensor:  # type: ignore[override]
            return super().forward(self.skip_linear(torch.cat([x, skip], -1)))

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.time = Patches(size=2, channels=4), nn.Linear(1, WIDTH)
        self.in_block, self.mid_block, self.out_block = Block(), Block(), self.SkipBlock()

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        x = torch.cat([self.time(timesteps[:, None]).unsqueeze(1), self.patch(x)], 1)
        skip = x = self.in_block(x)
        return self.out_block(self.mid_block(x), skip)


@network("nvit", IMAGE)
class NormalisedVit(nn.Module):
    """Every residual step moves along the sphere: ``x = norm(x + a * (norm(f(x)) - x))``."""

    class NormBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn, self.mlp = Attention(), Mlp()
            self.a, self.m = nn.Parameter(torch.full((WIDTH,), 0.3)), nn.Parameter(torch.full((WIDTH,), 0.3))

        def forward(self, h: Tensor) -> Tensor:
            normed = nn.functional.normalize(self.attn(h), dim=-1)
            h = nn.functional.normalize(h + self.a * (normed - h), dim=-1)
            normed = nn.functional.normalize(self.mlp(h), dim=-1)
            return nn.functional.normalize(h + self.m * (normed - h), dim=-1)

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.blocks = Patches(), nn.ModuleList([self.NormBlock(), self.NormBlock()])

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.normalize(self.patch(x), dim=-1)
        for block in self.blocks:
            x = block(x)
        return x


@network("parallel-vit", IMAGE)
class ParallelVit(Stack):
    """Attention and MLP side by side on one norm, as in the 22-billion-parameter ViT."""

    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.attn, self.mlp = nn.LayerNorm(WIDTH), Attention(), Mlp()

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return x + self.attn(y) + self.mlp(y)

    def __init__(self) -> None:
        super().__init__(self.Parallel(), self.Parallel())
        self.patch = Patches()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.patch(x))


@network("swiglu-vit", IMAGE)
class SwigluVit(Stack):
    """SwiGLU in one packed projection, RMS norm written out."""

    class Rms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6).type_as(x) * self.weight

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n1, self.attn, self.n2 = SwigluVit.Rms(), Attention(), SwigluVit.Rms()
            self.w12, self.w3 = nn.Linear(WIDTH, 64), nn.Linear(32, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attn(self.n1(x))
            x1, x2 = self.w12(self.n2(x)).chunk(2, dim=-1)
            return x + here(self.w3(nn.functional.silu(x1) * x2), 1)

    def __init__(self) -> None:
        super().__init__(self.Layer(), self.Layer())
        self.patch = Patches()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.patch(x))


@network("autocast-vit", IMAGE)
class AutocastVit(Stack):
    """Turns autocast off around its blocks, as training code for mixed precision does."""

    def __init__(self) -> None:
        super().__init__(Block(), Block())
        self.patch = Patches()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(self.patch(x.float()))


@network("checkpointed-vit", IMAGE)
class CheckpointedVit(Stack):
    """Runs its blocks under activation checkpointing."""

    def __init__(self) -> None:
        super().__init__(Block(), Block())
        self.patch = Patches()

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        for block in self.blocks:
            x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
        return self.norm(x)


@network("compiled-blocks", IMAGE)
def compiled_blocks() -> nn.Module:
    """Single blocks compiled by the user, the usual recipe for large models."""
    net = nn.Sequential(Patches(), Stack(Block(), Block()))
    net[1].blocks[1] = torch.compile(net[1].blocks[1], backend="eager")  # type: ignore[index,union-attr]
    return net
