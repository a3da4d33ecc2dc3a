"""Uniform heads in ViT-S, rows A, B and C of the paper's Table 1, with the parameters that the table counts.

    pip install 'cbsurgeon[timm]'
    python examples/07_uniform_heads.py

Twenty seconds. (A) makes one of six heads uniform: its queries and keys no longer affect the output, and the table does
not count their parameters. (B) is (A) on a wider model, with about as many parameters as ViT-S. (C) appends a head of
the full width: six more heads of 64 channels that are all uniform compute the same as one of 384.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.layers import Attention
from torch import nn

import cbsurgeon as cbs


class Appended(Attention):
    """Attention whose heads keep 64 channels, however many there are."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, attn_head_dim=64, **keywords)


def vit(**changes: Any) -> nn.Module:
    return timm.create_model("deit_small_patch16_224", **changes).eval()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def unread(module: nn.Module, images: torch.Tensor) -> int:
    """Return the number of weights and biases of the query, key and value projections that no output depends on."""
    module(images).square().sum().backward()
    weights = [p.grad for name, p in module.named_parameters() if name.endswith("attn.qkv.weight")]
    return sum(int((~grad.bool().any(1)).sum()) * (grad.shape[1] + 1) for grad in weights)


def main() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 224, 224)
    print(f"ViT-S  {count(vit()):>10}")
    for row, module, heads in (
        ("A", vit(), [0]),
        ("B", vit(embed_dim=390), [0]),
        ("C", vit(num_heads=12, attn_layer=Appended), [6, 7, 8, 9, 10, 11]),
    ):
        cbs.insert_(module, op="uniform_head", layers="all", heads=heads, inputs=images)
        dropped = unread(module, images) if row != "C" else 0  # the table counts all of the appended head
        print(f"({row})    {count(module) - dropped:>10}  {dropped} no longer matter")
        _, weights = next(iter(cbs.attention_maps(module, images)))
        assert torch.equal(weights[:, heads], torch.full_like(weights[:, heads], 1 / 197))


if __name__ == "__main__":
    main()
