"""Networks without attention: token-mixing MLPs, permutations, shifts, convolutions, Fourier transforms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.wild_networks.parts import WIDTH, Mlp, Patches, Stack, here, network, noise

IMAGE = noise(3, 16, 16)


@network("mlp-mixer", IMAGE)
class Mixer(Stack):
    """The token MLP works on transposed tokens; only the channel MLP is the paper's."""

    class MixerBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2, self.mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Mlp()
            self.tokens = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
            return x + self.mlp(self.norm2(x))

    def __init__(self) -> None:
        super().__init__(self.MixerBlock(), self.MixerBlock())
        self.patch = Patches()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.patch(x))


@network("mixer-nchw", IMAGE)
class ConvolutionalMixer(nn.Module):
    """The same on ``[B, C, N]``, with ``Conv1d`` for both MLPs."""

    class ConvBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.BatchNorm1d(WIDTH), nn.BatchNorm1d(WIDTH)
            self.t1, self.t2 = nn.Linear(16, 24), nn.Linear(24, 16)
            self.c1, self.c2 = nn.Conv1d(WIDTH, 32, 1), nn.Conv1d(32, WIDTH, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.t2(nn.functional.gelu(self.t1(self.norm1(x))))
            return x + here(self.c2(nn.functional.gelu(self.c1(self.norm2(x)))), 2)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, WIDTH, 4, 4), nn.Sequential(self.ConvBlock(), self.ConvBlock())

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(x).flatten(2))


@network("gmlp", IMAGE)
class GatedMlp(Stack):
    """One block with a spatial gating unit between its projections."""

    class GatingBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc1, self.fc2 = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 64), nn.Linear(32, WIDTH)
            self.gate_norm, self.spatial = nn.LayerNorm(32), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            u, v = nn.functional.gelu(self.fc1(self.norm(x))).chunk(2, dim=-1)
            v = self.spatial(self.gate_norm(v).transpose(-1, -2)).transpose(-1, -2)
            return x + here(self.fc2(u * v), 1)

    def __init__(self) -> None:
        super().__init__(self.GatingBlock(), self.GatingBlock())
        self.patch = Patches()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.patch(x))


class SplitAttention(nn.Module):
    def __init__(self, parts: int = 3) -> None:
        super().__init__()
        self.parts, self.mlp1 = parts, nn.Linear(WIDTH, WIDTH, bias=False)
        self.mlp2 = nn.Linear(WIDTH, WIDTH * parts, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, k, _h, _w, c = x.shape
        a = x.sum(1).sum((1, 2))
        weights = self.mlp2(nn.functional.gelu(self.mlp1(a))).reshape(b, k, c).softmax(1)
        return (weights[:, :, None, None, :] * x).sum(1)


@network("s2-mlp", IMAGE)
class SpatialShift(nn.Module):
    """Channels shifted along the map, joined by split attention; channels last."""

    class ShiftBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2, self.mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Mlp(axes=(1, 2))
            self.mlp1, self.mlp2, self.split = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), SplitAttention()

        @staticmethod
        def shift(x: Tensor) -> Tensor:
            c = x.shape[-1]
            down = torch.cat([x[:, :1, :, : c // 2], x[:, :-1, :, : c // 2]], 1)
            right = torch.cat([x[:, :, :1, c // 2 :], x[:, :, :-1, c // 2 :]], 2)
            return torch.cat([down, right], -1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.mlp1(self.norm1(x))
            parts = [self.shift(y[..., :WIDTH]), self.shift(y[..., WIDTH : 2 * WIDTH]), y[..., 2 * WIDTH :]]
            x = x + self.mlp2(self.split(torch.stack(parts, 1)))
            return x + self.mlp(self.norm2(x))

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, WIDTH, 4, 4), nn.ModuleList([self.ShiftBlock(), self.ShiftBlock()])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        return x.mean((1, 2))


@network("vision-permutator", IMAGE)
class Permutator(nn.Module):
    """Linear layers along height, width and channels of segments, weighted by pooled gates."""

    class PermuteBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2, self.mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Mlp(axes=(1, 2))
            self.mlp_c, self.mlp_h, self.mlp_w = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
            self.reweight = nn.Sequential(nn.Linear(WIDTH, 8), nn.GELU(), nn.Linear(8, 3 * WIDTH))
            self.proj = nn.Linear(WIDTH, WIDTH)

        def mix(self, x: Tensor) -> Tensor:
            b, h, w, c = x.shape
            s = c // h
            y = x.reshape(b, h, w, h, s).permute(0, 3, 2, 1, 4).reshape(b, h, w, h * s)
            y = self.mlp_h(y).reshape(b, h, w, h, s).permute(0, 3, 2, 1, 4).reshape(b, h, w, c)
            z = x.reshape(b, h, w, w, s).permute(0, 1, 3, 2, 4).reshape(b, h, w, w * s)
            z = self.mlp_w(z).reshape(b, h, w, w, s).permute(0, 1, 3, 2, 4).reshape(b, h, w, c)
            q = self.mlp_c(x)
            a = self.reweight((y + z + q).permute(0, 3, 1, 2).flatten(2).mean(2))
            a = a.reshape(b, c, 3).permute(2, 0, 1).softmax(0).unsqueeze(2).unsqueeze(2)
            return self.proj(y * a[0] + z * a[1] + q * a[2])

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.mix(self.norm1(x))
            return x + self.mlp(self.norm2(x))

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, WIDTH, 4, 4), nn.ModuleList([self.PermuteBlock(), self.PermuteBlock()])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        return x


@network("convmixer", IMAGE, blocks=0)
def conv_mixer() -> nn.Module:
    """Depthwise and pointwise convolutions: one projection a block, so there is no MLP."""

    class Residual(nn.Module):
        def __init__(self, fn: nn.Module) -> None:
            super().__init__()
            self.fn = fn

        def forward(self, x: Tensor) -> Tensor:
            return self.fn(x) + x

    def layer() -> nn.Module:
        depthwise = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, groups=WIDTH, padding=1), nn.GELU(), nn.BatchNorm2d(WIDTH))
        return nn.Sequential(Residual(depthwise), nn.Conv2d(WIDTH, WIDTH, 1), nn.GELU(), nn.BatchNorm2d(WIDTH))

    return nn.Sequential(nn.Conv2d(3, WIDTH, 4, 4), nn.GELU(), nn.BatchNorm2d(WIDTH), layer(), layer())


@network("fnet", noise(6, WIDTH))
class FNet(Stack):
    """The Fourier transform mixes tokens and channels; post-norm."""

    class FourierBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2, self.mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Mlp()

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm1(x + torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real)
            return self.norm2(x + self.mlp(x))

    def __init__(self) -> None:
        super().__init__(self.FourierBlock(), self.FourierBlock())


@network("resmlp", IMAGE)
class ResMlp(Stack):
    """Affine layers instead of norms; one linear layer mixes the tokens."""

    class Affine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alpha, self.beta = nn.Parameter(torch.ones(1, 1, WIDTH)), nn.Parameter(torch.zeros(1, 1, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addcmul(self.beta, self.alpha, x)

    class ResBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2, self.mlp = ResMlp.Affine(), ResMlp.Affine(), Mlp()
            self.linear, self.ls = nn.Linear(16, 16), nn.Parameter(torch.full((WIDTH,), 0.2))

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.ls * self.linear(self.norm1(x).transpose(1, 2)).transpose(1, 2)
            return x + self.ls * self.mlp(self.norm2(x))

    def __init__(self) -> None:
        super().__init__(self.ResBlock(), self.ResBlock())
        self.patch = Patches()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.patch(x))
