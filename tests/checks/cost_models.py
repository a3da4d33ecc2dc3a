"""Small real models (random weights) and a way to attach an operator, for the tests of the counts."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

from cbsurgeon.checks.cost.auditing import count
from cbsurgeon.checks.cost.counts import Count
from cbsurgeon.models.model import Model, Provenance
from cbsurgeon.operators import build

TIMM: dict[str, dict[str, Any]] = {
    "deit_tiny_patch16_224": {"depth": 2, "img_size": 64},
    "deit_tiny_distilled_patch16_224": {"depth": 2, "img_size": 64},
    "swin_tiny_patch4_window7_224": {"depths": (2, 1), "num_heads": (3, 6), "img_size": 112},
    "pit_ti_224": {"depth": (1, 1, 1)},
    "pvt_v2_b0": {"depths": (1, 1, 1, 1)},
    "convnext_atto": {"depths": (1, 1, 1, 1)},
    "eva02_tiny_patch14_224": {"depth": 2, "img_size": 56},
    "MlpMixer": {"block": "MixerBlock", "mlp": "Mlp", "norm": "LayerNorm"},
    "ResMLP": {"block": "ResBlock", "mlp": "Mlp", "norm": "Affine"},
    "gMLP": {"block": "SpatialGatingBlock", "mlp": "GatedMlp", "norm": "LayerNorm"},
}
"""Ten families of timm at reduced depth; the last three are one class with three kinds of block."""


def timm_model(name: str, **options: Any) -> Model:
    """A timm model in evaluation mode with a batch of two."""
    import timm

    if "block" in options:
        return _mixer(name, **options)
    module = timm.create_model(name, **options).eval()
    size = options.get("img_size", module.default_cfg["input_size"][-1])
    return Model(module, (torch.randn(2, 3, size, size),), Provenance(f"timm:{name}"))


def _mixer(name: str, block: str, mlp: str, norm: str) -> Model:
    from timm.models import mlp_mixer

    ratio: Any = (0.5, 4.0) if block == "MixerBlock" else 4.0
    kinds = {"block_layer": block, "mlp_layer": mlp, "norm_layer": norm}
    parts = {key: getattr(mlp_mixer, kind, None) or getattr(nn, kind) for key, kind in kinds.items()}
    module = mlp_mixer.MlpMixer(img_size=64, patch_size=16, num_blocks=2, embed_dim=64, mlp_ratio=ratio, **parts)
    return Model(module.eval(), (torch.randn(2, 3, 64, 64),), Provenance(f"timm:{name}"))


@functools.cache
def counted(name: str) -> tuple[Model, Count]:
    """A model of :data:`TIMM`, ``torchvision`` or ``transformers``, and its count from the graph."""
    make = {"torchvision": torchvision_model, "transformers": hf_model}
    model = make[name]() if name in make else timm_model(name, **TIMM[name])
    return model, count(model)


def torchvision_model() -> Model:
    """torchvision's ViT, small: its blocks lie in an ``OrderedDict`` of a ``Sequential``."""
    from torchvision.models import VisionTransformer

    module = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10
    ).eval()
    return Model(module, (torch.randn(2, 3, 32, 32),), Provenance("torchvision:vit"))


def hf_model() -> Model:
    """transformers' ViT, small: its blocks lie in a ``ModuleList``."""
    import transformers

    config = transformers.ViTConfig(
        num_hidden_layers=2, hidden_size=64, num_attention_heads=2, intermediate_size=128, image_size=64
    )
    module = transformers.ViTForImageClassification(config).eval()
    return Model(module, (torch.randn(2, 3, 64, 64),), Provenance("hf:ViT"))


def _at_output(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return module.context_broadcast(output)


def _at_input(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (module.context_broadcast(args[0]), *args[1:])


def with_operator(model: Model, op: str, position: str = "end") -> Model:
    """A copy of a timm ViT with the operator in every MLP, as child module and hook of fc1 or fc2."""
    module = copy.deepcopy(model.module)
    for block in module.blocks:
        holder = block.mlp.fc1 if position == "front" else block.mlp.fc2
        width = holder.out_features if position == "end" else holder.in_features
        holder.context_broadcast = build(op, width, 2, (1,))
        if position == "end":
            holder.register_forward_hook(_at_output)
        else:
            holder.register_forward_pre_hook(_at_input)
    return Model(module.eval(), model.example_inputs, Provenance(f"{model.provenance.reference}+{op}"))
