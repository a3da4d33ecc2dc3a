"""Small real models with random weights, and the same with Context Broadcasting inserted."""

from __future__ import annotations

from functools import cache

import timm
import torch
from timm.models.mlp_mixer import MlpMixer
from torch import nn
from transformers import BertConfig, BertModel

from cbsurgeon import graph, surgery
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model

CLASSES = 10


def _timm(name: str, size: int = 64, **options) -> Model:
    torch.manual_seed(0)
    return _filled(timm.create_model(name, num_classes=CLASSES, **options).eval(), size)


def _mixer() -> Model:
    torch.manual_seed(0)
    module = MlpMixer(num_classes=CLASSES, img_size=64, patch_size=16, num_blocks=3, embed_dim=64).eval()
    return _filled(module, 64)


def _filled(module: nn.Module, size: int) -> Model:
    for parameter in module.parameters():  # heads and layer scales that start near zero would hide every difference
        if parameter.detach().abs().max() < 1e-3:
            nn.init.normal_(parameter, std=0.05)
    return Model(module, (torch.randn(2, 3, size, size),))


def _bert() -> Model:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, vocab_size=100
    )
    return Model(BertModel(config).eval(), (torch.randint(0, 100, (2, 16)),))


BUILDERS = {
    "vit": lambda: _timm("vit_tiny_patch16_224", depth=3, img_size=64),
    "deit": lambda: _timm("deit_tiny_distilled_patch16_224", depth=3, img_size=64),
    "deit3": lambda: _timm("deit3_small_patch16_224", depth=2, img_size=64),
    "swin": lambda: _timm(
        "swin_tiny_patch4_window7_224", 32, img_size=32, window_size=4, depths=(2, 1), embed_dim=32, num_heads=(2, 4)
    ),
    "mixer": _mixer,
    "pvt_v2": lambda: _timm("pvt_v2_b0", depths=(1, 1, 1, 1)),
    "bert": _bert,
}


@cache
def plain(name: str) -> Model:
    """A model without operators."""
    return BUILDERS[name]()


@cache
def edited(name: str, position: str = "end", op: str = "cb", layers: str = "upper") -> Model:
    """The same model with operators inserted into its program."""
    model = plain(name)
    recipe = surgery.plan(graph.inspect(model), op=op, layers=layers, pos=position)
    return surgery.insert_program(model, recipe)


@cache
def program(name: str, position: str = "end", op: str = "cb", layers: str = "upper") -> graph.Program:
    """The captured form of :func:`edited`."""
    return capture(edited(name, position, op, layers))
