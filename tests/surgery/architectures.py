"""Small real architectures with random weights: one per way of writing an MLP block that users bring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from cbsurgeon.graph import Inspection, Program
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.inspection import inspect
from cbsurgeon.models.model import Model, Provenance

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def _image(size: int) -> tuple[torch.Tensor]:
    return (torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)),)


def _timm(name: str, size: int = 64, **options: Any) -> Callable[[], Built]:
    def build() -> Built:
        timm = pytest.importorskip("timm", reason="the architecture is timm's")
        return timm.create_model(name, num_classes=5, **options), _image(size), {}

    return build


def _mixer() -> Built:
    mixers = pytest.importorskip("timm.models.mlp_mixer", reason="the architecture is timm's")
    return mixers.MlpMixer(num_classes=5, img_size=32, patch_size=8, num_blocks=2, embed_dim=32), _image(32), {}


def _torchvision_vit() -> Built:
    vision = pytest.importorskip("torchvision.models", reason="the architecture is torchvision's")
    module = vision.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5)
    nn.init.normal_(module.heads.head.weight)  # it starts at zero, which would hide every difference
    return module, _image(32), {}


def _torchvision_swin() -> Built:
    vision = pytest.importorskip("torchvision.models", reason="the architecture is torchvision's")
    module = vision.SwinTransformer([4, 4], 16, [1, 2], [2, 2], [2, 2], num_classes=5)
    return module, _image(32), {}


def _hf(kind: str, config: str, sizes: dict[str, Any], inputs: Callable[[], dict[str, Any]]) -> Callable[[], Built]:
    def build() -> Built:
        transformers = pytest.importorskip("transformers", reason="the architecture is that of transformers")
        return getattr(transformers, kind)(getattr(transformers, config)(**sizes)), (), inputs()

    return build


def _pixels() -> dict[str, Any]:
    return {"pixel_values": _image(32)[0]}


def _words() -> dict[str, Any]:
    return {"input_ids": torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(2))}


_HF = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_TEXT = {**_HF, "vocab_size": 50, "max_position_embeddings": 16}
_STAGES = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 2), "num_heads": (2, 2)}

ARCHITECTURES: dict[str, Callable[[], Built]] = {
    "deit": _timm("deit_tiny_patch16_224", img_size=64, depth=2),
    "deit3 with layer scale": _timm("deit3_small_patch16_224", img_size=64, depth=2, embed_dim=48, num_heads=3),
    "mixer": _mixer,
    "swin": _timm("swin_tiny_patch4_window7_224", **_STAGES),
    "swin v2": _timm("swinv2_tiny_window8_256", **_STAGES),
    "pit": _timm("pit_ti_224", img_size=64, depth=(1, 2, 1), base_dims=(8, 8, 8), heads=(2, 2, 4)),
    "eva with gated mlp": _timm("eva02_tiny_patch14_224", 56, img_size=56, depth=2, embed_dim=48, num_heads=3),
    "xcit": _timm("xcit_nano_12_p16_224", img_size=64, depth=2, embed_dim=32, num_heads=2),
    "cait": _timm("cait_xxs24_224", img_size=64, depth=2, embed_dim=32, num_heads=2),
    "davit": _timm("davit_tiny", depths=(1, 1), embed_dims=(8, 16), num_heads=(1, 2)),
    "torchvision vit": _torchvision_vit,
    "torchvision swin": _torchvision_swin,
    "hf vit": _hf("ViTForImageClassification", "ViTConfig", {**_HF, "image_size": 32, "patch_size": 8}, _pixels),
    "hf bert": _hf("BertModel", "BertConfig", _TEXT, _words),
}


def _tell(parameter: nn.Parameter) -> None:
    """Layer scales, biases and heads often start at zero, weights small: outputs would hide what happens inside."""
    if parameter.dim() > 1:
        bound = (3 * parameter.shape[0] / parameter.numel()) ** 0.5
        nn.init.uniform_(parameter, -bound, bound)
    else:
        nn.init.uniform_(parameter, 0.5, 1.0) if parameter.mean() > 0.5 else nn.init.uniform_(parameter, -0.5, 0.5)


@cache
def model(name: str) -> Model:
    """The architecture with the same random weights every time; no parameter stays at a telling value."""
    torch.manual_seed(0)
    module, args, kwargs = ARCHITECTURES[name]()
    for parameter in module.parameters():
        _tell(parameter)
    return Model(module.eval(), args, Provenance(reference=name), kwargs)


@cache
def program(name: str) -> Program:
    """Its graph, captured once for all tests."""
    return capture(model(name))


@cache
def as_program(name: str) -> Model:
    """The same model without its module."""
    return Model(None, provenance=Provenance(reference=name), program=program(name).exported)


@cache
def inspection(name: str) -> Inspection:
    """What the finder says about it."""
    return inspect(replace(model(name), program=program(name).exported))


__all__ = ["ARCHITECTURES", "as_program", "inspection", "model", "program"]
