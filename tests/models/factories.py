"""Small models the tests reach as ``mod:tests.models.factories:NAME``."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

from cbsurgeon.models import Model

NOT_A_FACTORY = 3


class Net(nn.Module):
    """Two layers and a buffer, in training mode as any new module is."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)
        self.last = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor, shift: torch.Tensor | None = None) -> torch.Tensor:
        y = self.last(self.norm(self.first(x)))
        return y if shift is None else y + shift


class Wrapped(nn.Module):
    """A model with a module that is really called ``module``."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x)


class Tied(nn.Module):
    """Input and output embedding are one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(tokens))


def bare(width: int = 4) -> nn.Module:
    return Net(width)


def with_tensor() -> tuple[nn.Module, torch.Tensor]:
    return Net(), torch.zeros(2, 3)


def with_tuple() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    return Net(), (torch.zeros(2, 3), torch.zeros(2, 2))


def with_keywords() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return Net(), {"x": torch.zeros(2, 3), "shift": torch.zeros(2, 2)}


def complete() -> Model:
    return Model(Net().eval(), (torch.zeros(2, 3),))


def wrapped() -> tuple[nn.Module, torch.Tensor]:
    return Wrapped(), torch.zeros(2, 3)


def tied() -> tuple[nn.Module, torch.Tensor]:
    return Tied(), torch.zeros(2, 5, dtype=torch.int64)


def small_vit(num_labels: int = 3) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=16,
        num_labels=num_labels,
    )
    return ViTForImageClassification(config)


def number() -> Any:
    return 3


def ending() -> nn.Module:
    sys.exit(0)


def ring() -> tuple[nn.Module, torch.Tensor]:
    """Two modules that hold each other."""
    one, other = nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.Linear(3, 3))
    one.add_module("other", other)
    other.add_module("one", one)
    return one, torch.ones(2, 3)


def failing() -> nn.Module:
    raise RuntimeError("the weights of this factory are elsewhere")


def counted(classes: int = 2, depth: int = 1) -> tuple[nn.Module, torch.Tensor]:
    """A classifier whose number of outputs has a name of its own."""
    layers = [nn.Linear(3, 3) for _ in range(depth)]
    return nn.Sequential(*layers, nn.Linear(3, classes)), torch.randn(2, 3)
