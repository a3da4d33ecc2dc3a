"""The entries of the zoo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

#: Two samples: ``torch.export`` would take a batch of one for a constant.
BATCH = 2

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Entry:
    """One model of the sweep.

    Attributes:
        name: unique over the zoo, such as ``timm/deit_tiny_patch16_224``.
        group: ``timm``, ``torchvision``, ``transformers`` or ``negative``.
        family: the model file or architecture it stands for.
        factory: builds the module and its positional and keyword inputs; use :meth:`build`.
        batch_axis: the batch axis, stated for models in which samples see each other; ``None`` to have it proved.
    """

    name: str
    group: str
    family: str
    factory: Callable[[], Built]
    batch_axis: int | None = None

    def build(self) -> Built:
        """The module with seeded random weights in evaluation mode, and inputs for two samples."""
        torch.manual_seed(0)
        module, args, kwargs = self.factory()
        return module.eval(), args, dict(kwargs)


def image(size: int | tuple[int, ...], channels: int = 3, batch: int = BATCH) -> torch.Tensor:
    """A batch of pictures: ``[batch, channels, height, width]``."""
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(batch, channels, height, width)


def tokens(length: int, vocabulary: int = 64, batch: int = BATCH) -> torch.Tensor:
    """A batch of token numbers ``[batch, length]`` that avoids the lowest ones, which are often special."""
    return torch.randint(5, vocabulary, (batch, length))


def merged(*options: Mapping[str, Any]) -> dict[str, Any]:
    """Return merged options; later ones override earlier ones."""
    return {key: value for mapping in options for key, value in mapping.items()}
