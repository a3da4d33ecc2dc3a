"""A small ViT and a small Mixer that the command line can load: ``mod:FILE:vit``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS = 16, 2


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        nn.init.normal_(self.q.weight, std=0.6)
        self.map: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (one(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for one in (self.q, self.k, self.v))
        if not torch.compiler.is_exporting():
            self.map = (q @ k.mT / 8**0.5).softmax(-1).detach()
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


class Vit(nn.Module):
    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.blocks = nn.Sequential(*(nn.Sequential(Attention(), Mlp()) for _ in range(depth)))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).mT
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        return self.head(self.blocks(x)[:, 0])


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.blocks = nn.Conv2d(3, WIDTH, 8, 8), nn.Sequential(Mlp(), Mlp())

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.patches(x).flatten(2).mT).mean(1)


class Asking(Vit):
    """Its control flow depends on the values of its input, so it cannot be captured whole; its blocks are found in
    captured parts."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1 if float(x.sum()) > 0 else super().forward(x)


def asking() -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    return Asking().eval(), (torch.randn(2, 3, 32, 32),)


def vit() -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    return Vit().eval(), (torch.randn(2, 3, 32, 32),)


def uniform() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The same, the second layer's queries 0: its attention is uniform."""
    module, inputs = vit()
    attention = module.blocks[1][0]
    nn.init.zeros_(attention.q.weight)
    nn.init.zeros_(attention.q.bias)
    return module, inputs


def mixer() -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    return Mixer().eval(), (torch.randn(2, 3, 32, 32),)
