"""Windows, stages, convolutions beside attention, video."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.wild_networks.parts import WIDTH, Attention, Block, Mlp, Patches, Stack, here, network, noise

IMAGE = noise(3, 16, 16)


def partition(x: Tensor, size: int) -> Tensor:
    b, h, w, c = x.shape
    x = x.view(b, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size, size, c)


def reverse(windows: Tensor, size: int, h: int, w: int) -> Tensor:
    b = int(windows.shape[0] / (h * w / size / size))  # the official code: the batch becomes a Python int
    x = windows.view(b, h // size, w // size, size, size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, -1)


class WindowBlock(nn.Module):
    def __init__(self, shift: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(WIDTH), Attention()
        self.norm2, self.mlp, self.shift = nn.LayerNorm(WIDTH), Mlp(), shift

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        shortcut, x = x, self.norm1(x).view(b, 4, 4, c)
        if self.shift:
            x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
        windows = self.attn(partition(x, 2).view(-1, 4, c))
        x = reverse(windows.view(-1, 2, 2, c), 2, 4, 4)
        if self.shift:
            x = torch.roll(x, shifts=(self.shift, self.shift), dims=(1, 2))
        x = shortcut + x.view(b, n, c)
        return x + self.mlp(self.norm2(x))


@network("swin", IMAGE)
class Swin(Stack):
    """The official Swin code, with its ``int(windows.shape[0] / ...)``."""

    def __init__(self) -> None:
        super().__init__(WindowBlock(0), WindowBlock(1))
        self.patch = Patches()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.patch(x))


@network("swin-v2", IMAGE)
class SwinV2(Stack):
    """Norms after the branches, cosine attention."""

    class V2Block(WindowBlock):
        def forward(self, x: Tensor) -> Tensor:
            b, n, c = x.shape
            windows = self.attn(partition(x.view(b, 4, 4, c), 2).view(-1, 4, c))
            x = x + self.norm1(reverse(windows.view(-1, 2, 2, c), 2, 4, 4).view(b, n, c))
            return x + self.norm2(self.mlp(x))

    def __init__(self) -> None:
        super().__init__(self.V2Block(0), self.V2Block(0))
        self.patch = Patches()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.patch(x))


@network("swin-mlp", IMAGE)
class SwinMlp(Stack):
    """A grouped convolution over the positions of each window instead of attention."""

    class MixBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2, self.mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Mlp()
            self.spatial_mlp = nn.Conv1d(2 * 4, 2 * 4, 1, groups=2)

        def forward(self, x: Tensor) -> Tensor:
            b, n, c = x.shape
            windows = partition(self.norm1(x).view(b, 4, 4, c), 2).view(-1, 4, 2, c // 2)
            windows = self.spatial_mlp(windows.transpose(1, 2).reshape(-1, 8, c // 2))
            windows = windows.view(-1, 2, 4, c // 2).transpose(1, 2).reshape(-1, 2, 2, c)
            x = x + reverse(windows, 2, 4, 4).view(b, n, c)
            return x + self.mlp(self.norm2(x))

    def __init__(self) -> None:
        super().__init__(self.MixBlock(), self.MixBlock())
        self.patch = Patches()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.patch(x))


@network("pvt", IMAGE, blocks=3)
class Pyramid(nn.Module):
    """Keys and values from a reduced map; two stages; the MLP has a depthwise convolution."""

    class ReducedAttention(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
            self.sr, self.norm = nn.Conv2d(width, width, 2, 2), nn.LayerNorm(width)

        def forward(self, x: Tensor, h: int, w: int) -> Tensor:
            b, _n, c = x.shape
            y = self.sr(x.permute(0, 2, 1).reshape(b, c, h, w)).reshape(b, c, -1).permute(0, 2, 1)
            k, v = self.kv(self.norm(y)).reshape(b, -1, 2, c).permute(2, 0, 1, 3)
            return self.proj((self.q(x) @ k.transpose(1, 2) * c**-0.5).softmax(-1) @ v)

    class ConvMlp(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
            self.dwconv = nn.Conv2d(2 * width, 2 * width, 3, 1, 1, groups=2 * width)

        def forward(self, x: Tensor, h: int, w: int) -> Tensor:
            x = self.fc1(x)
            b, _n, c = x.shape
            x = self.dwconv(x.transpose(1, 2).view(b, c, h, w)).flatten(2).transpose(1, 2)
            return here(self.fc2(nn.functional.gelu(x)), 1)

    class PyramidBlock(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.norm1, self.attn = nn.LayerNorm(width), Pyramid.ReducedAttention(width)
            self.norm2, self.mlp = nn.LayerNorm(width), Pyramid.ConvMlp(width)

        def forward(self, x: Tensor, h: int, w: int) -> Tensor:
            x = x + self.attn(self.norm1(x), h, w)
            return x + self.mlp(self.norm2(x), h, w)

    def __init__(self) -> None:
        super().__init__()
        self.embed1, self.embed2 = nn.Conv2d(3, 12, 2, 2), nn.Conv2d(12, WIDTH, 2, 2)
        self.block1 = nn.ModuleList([self.PyramidBlock(12)])
        self.block2 = nn.ModuleList([self.PyramidBlock(WIDTH), self.PyramidBlock(WIDTH)])

    def forward(self, x: Tensor) -> Tensor:
        for embed, blocks in ((self.embed1, self.block1), (self.embed2, self.block2)):
            x = embed(x)
            b, _c, h, w = x.shape
            x = x.flatten(2).transpose(1, 2)
            for block in blocks:
                x = block(x, h, w)
            x = x.reshape(b, h, w, -1).permute(0, 3, 1, 2).contiguous()
        return x.mean((2, 3))


@network("convnext", IMAGE, kinds=("inverted-bottleneck",))
class ConvNext(nn.Module):
    """Depthwise convolution, then an MLP on channels-last maps, all in one branch; layer scale. Such a branch is both
    token mixer and MLP and is chosen on request."""

    class NextBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dwconv, self.norm = nn.Conv2d(WIDTH, WIDTH, 7, padding=3, groups=WIDTH), nn.LayerNorm(WIDTH)
            self.pwconv1, self.pwconv2 = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)
            self.gamma = nn.Parameter(torch.full((WIDTH,), 0.5))

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
            y = self.gamma * here(self.pwconv2(nn.functional.gelu(self.pwconv1(y))), 1, 2)
            return x + y.permute(0, 3, 1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, WIDTH, 4, 4), nn.Sequential(self.NextBlock(), self.NextBlock())

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(x))


@network("poolformer", IMAGE)
class PoolFormer(nn.Module):
    """``pool(x) - x`` mixes the tokens; group norm; the MLP is made of 1x1 convolutions."""

    class PoolBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.GroupNorm(1, WIDTH), nn.GroupNorm(1, WIDTH)
            self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
            self.fc1, self.fc2 = nn.Conv2d(WIDTH, 32, 1), nn.Conv2d(32, WIDTH, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm1(x)
            x = x + (self.pool(y) - y)
            return x + here(self.fc2(nn.functional.gelu(self.fc1(self.norm2(x)))), 2, 3)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, WIDTH, 4, 4), nn.Sequential(self.PoolBlock(), self.PoolBlock())

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(x)).mean((2, 3))


@network("timesformer", noise(3, 4, 8, 8))
class TimeSformer(nn.Module):
    """Attention over time, then over space, by folding the other axis into the batch; the MLP sees all tokens."""

    class SpaceTime(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm_t, self.attn_t, self.fc_t = nn.LayerNorm(WIDTH), Attention(), nn.Linear(WIDTH, WIDTH)
            self.norm1, self.attn, self.norm2, self.mlp = nn.LayerNorm(WIDTH), Attention(), nn.LayerNorm(WIDTH), Mlp()

        def forward(self, x: Tensor) -> Tensor:
            b, n, c = x.shape
            xt = x.view(b, 4, n // 4, c).transpose(1, 2).reshape(-1, 4, c)
            xt = self.fc_t(self.attn_t(self.norm_t(xt))).view(b, n // 4, 4, c).transpose(1, 2).reshape(b, n, c)
            x = x + xt
            xs = self.attn(self.norm1(x.reshape(-1, n // 4, c)))
            x = x + xs.reshape(b, n, c)
            return x + self.mlp(self.norm2(x))

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.blocks = nn.Conv2d(3, WIDTH, 4, 4), nn.ModuleList([self.SpaceTime(), self.SpaceTime()])

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        x = self.patch(x.transpose(1, 2).reshape(b * t, c, h, w)).flatten(2).transpose(1, 2)
        x = x.reshape(b, -1, WIDTH)
        for block in self.blocks:
            x = block(x)
        return x


@network("vivit", noise(3, 4, 8, 8), blocks=2)
class FactorisedVideo(nn.Module):
    """A spatial encoder on single frames, then a temporal encoder on frame tokens: each MLP sees its own tokens.

    In the spatial encoder the frames are folded into the batch; the mean runs over the tokens of one sample's frame as
    the attention does, or over all frames of the sample. A person writes ``mean(1)``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.cls = nn.Conv2d(3, WIDTH, 4, 4), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.spatial, self.temporal = Block(), Block()

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        x = self.patch(x.transpose(1, 2).reshape(b * t, c, h, w)).flatten(2).transpose(1, 2)
        x = self.spatial(torch.cat([self.cls.expand(b * t, -1, -1), x], 1))[:, 0]
        return self.temporal(x.view(b, t, WIDTH))
