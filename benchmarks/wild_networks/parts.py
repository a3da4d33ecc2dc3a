"""Shared by the networks: the hand-written operator, the list of networks, and a basic MLP and attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

WIDTH = 16
"""Channels of most networks."""

_MODE = ["off"]


@contextmanager
def by_hand(mode: str) -> Iterator[None]:
    """Context manager in which :func:`here` computes the operator; outside it returns its input.

    Args:
        mode: ``cb``, ``causal`` (every token with the mean of those up to it) or ``masked``.
    """
    _MODE[0] = mode
    try:
        yield
    finally:
        _MODE[0] = "off"


def here(y: Tensor, *axes: int, keep: Tensor | None = None) -> Tensor:
    """Marks the position where a person would write Context Broadcasting, with its token axes.

    Args:
        y: result of an MLP.
        axes: its token axes.
        keep: for padded networks, true for tokens that are not padding; broadcasts against ``y``.
    """
    mode = _MODE[0]
    if mode == "off":
        return y
    if mode == "causal":
        count = torch.arange(1, y.shape[axes[0]] + 1, dtype=y.dtype)
        shape = [1] * y.dim()
        shape[axes[0]] = len(count)
        return (y + y.cumsum(axes[0]) / count.view(shape)) / 2
    if mode == "masked" and keep is not None:
        weight = keep.to(y.dtype).expand(*y.shape[:-1], 1)
        return (y + (y * weight).sum(axes, keepdim=True) / weight.sum(axes, keepdim=True)) / 2
    return (y + y.mean(axes, keepdim=True)) / 2


@dataclass(frozen=True)
class Network:
    """One network and its expected result.

    Attributes:
        name: the public architecture whose style it follows.
        build: makes the module.
        example: batch size → positional inputs.
        blocks: blocks a person would choose by default.
        leak: the leak of a plain mean: none (empty), ``causal`` or ``padded``.
        layers: selector of the insertion; the name of a stack if other stacks would leak.
        fixed: whether the module accepts one batch size only.
        kinds: kinds of blocks to choose instead of the default ones.
    """

    name: str
    build: Callable[[], nn.Module]
    example: Callable[[int], tuple[Any, ...]]
    blocks: int
    leak: str = ""
    layers: str = "all"
    fixed: bool = False
    kinds: tuple[str, ...] = ()


NETWORKS: dict[str, Network] = {}


def network(
    name: str,
    example: Callable[[int], tuple[Any, ...]],
    blocks: int = 2,
    leak: str = "",
    layers: str = "all",
    *,
    fixed: bool = False,
    kinds: tuple[str, ...] = (),
) -> Callable[[Any], Any]:
    """Decorator that adds a class, or a function that builds a module, to the list of networks."""

    def add(build: Any) -> Any:
        NETWORKS[name] = Network(name, build, example, blocks, leak, layers, fixed, kinds)
        return build

    return add


def noise(*shape: int) -> Callable[[int], tuple[Tensor, ...]]:
    """Inputs of one tensor, batch first."""
    return lambda batch: (torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch)),)


def words(length: int, vocabulary: int = 20) -> Callable[[int], tuple[Tensor, ...]]:
    """Inputs of token numbers, batch first."""
    return lambda batch: (torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(batch)),)


class Mlp(nn.Module):
    """The MLP of timm, with the operator by hand at its end."""

    def __init__(self, width: int = WIDTH, axes: tuple[int, ...] = (1,), act: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(width, 2 * width), act()
        self.fc2, self.drop, self.axes = nn.Linear(2 * width, width), nn.Dropout(0.1), axes

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return here(self.drop(self.fc2(self.act(self.fc1(x)))), *self.axes, keep=keep)


class Attention(nn.Module):
    """The attention of the first vision transformers, written out."""

    def __init__(self, width: int = WIDTH, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5
        if mask is not None:
            scores = scores + mask
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width)

    def forward(self, x: Tensor, mask: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x), keep)


class Stack(nn.Module):
    """Blocks one after another, and a norm."""

    def __init__(self, *blocks: nn.Module, width: int = WIDTH) -> None:
        super().__init__()
        self.blocks, self.norm = nn.ModuleList(blocks), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Patches(nn.Module):
    """Patches of an image as tokens."""

    def __init__(self, width: int = WIDTH, size: int = 4, channels: int = 3) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, size, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)
