"""Small real architectures, and the same with an operator in every block."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs

CLASSES, SIZE = 5, 32


def _timm(name: str, **options: Any) -> Callable[..., nn.Module]:
    def build(**more: Any) -> nn.Module:
        timm = pytest.importorskip("timm", reason="the architecture is timm's")
        return timm.create_model(name, num_classes=CLASSES, **options, **more)

    return build


def _mixer(**more: Any) -> nn.Module:
    mixers = pytest.importorskip("timm.models.mlp_mixer", reason="the architecture is timm's")
    return mixers.MlpMixer(num_classes=CLASSES, img_size=SIZE, patch_size=8, num_blocks=2, embed_dim=32, **more)


def hf_vit(**more: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="the architecture is that of transformers")
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=SIZE,
            patch_size=8,
            num_labels=CLASSES,
            **more,
        )
    )


_TINY = {"img_size": SIZE, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
_STAGES = {"img_size": SIZE, "patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "vit": _timm("vit_tiny_patch16_224", **_TINY),
    "deit3": _timm("deit3_small_patch16_224", **_TINY),
    "swin": _timm("swin_tiny_patch4_window7_224", **_STAGES),
    "mixer": _mixer,
    "hf vit": hf_vit,
}


class Residual(nn.Module):
    """An MLP block of a given width."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def wide(channels: int = 4096, hidden: int = 18432, depth: int = 4) -> tuple[nn.Module, Tensor]:
    """Four large blocks, 2.42 GB in float32, and an input of eight tokens (``mod:tests.training.networks:wide``)."""
    return nn.Sequential(*(Residual(channels, hidden) for _ in range(depth))), torch.zeros(2, 8, channels)


def images(count: int = 2, seed: int = 1) -> Tensor:
    """Shape ``[count, 3, 32, 32]``, always the same."""
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def build(name: str, **more: Any) -> nn.Module:
    """A fresh network with random weights; the same ones each time, and none at the zero where some layers start (a
    head of zeros would hide every difference).
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        module = NETWORKS[name](**more)
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        return module


@cache
def recipe(name: str, op: str = "cb") -> cbs.Recipe:
    """An operator at the end of every block, chosen once and good for any network of that name."""
    found = cbs.inspect(cbs.Model(build(name).eval(), (images(),)))
    return cbs.plan(found, op=op, layers="all", options={"initial": 0.3} if op == "cb_s" else None)


def edited(name: str, op: str = "cb", **more: Any) -> nn.Module:
    """A fresh network carrying the operator, in training mode as any new module is. ``scale`` starts at 0.3, so that
    an operator that does not run is seen.
    """
    return cbs.insert_(build(name, **more), recipe(name, op))


def logits(output: Any) -> Tensor:
    """The predictions of the network, without the container that it returns them in."""
    return output if isinstance(output, Tensor) else output.logits


def gradients(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Gradients of a loss that sees every output differently."""
    module.zero_grad(set_to_none=True)
    out = logits(module(x)).float()
    (out * torch.arange(out.numel(), dtype=out.dtype).view_as(out).cos()).sum().backward()
    return {key: value.grad.clone() for key, value in module.named_parameters() if value.grad is not None}


def scales(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of CB_S, found by name as a training script finds them."""
    return {key: value for key, value in module.named_parameters() if key.endswith("context_broadcast.scale")}
