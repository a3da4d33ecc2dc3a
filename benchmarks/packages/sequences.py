"""Transformers for sequences: efficient attention, latents, causal models, padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.packages.listing import model, of

IDS = torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0))
KEPT: Tensor = torch.arange(16)[None] < torch.tensor([[16], [9]])
IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
WIDTHS: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 2}


@model("perceiver-pytorch", "Perceiver", torch.randn(2, 8, 8, 3))
def _perceiver() -> nn.Module:
    return of("perceiver_pytorch", "Perceiver")(
        input_channels=3, input_axis=2, num_freq_bands=2, max_freq=10.0, depth=2, num_latents=8, latent_dim=32,
        cross_heads=1, latent_heads=2, cross_dim_head=16, latent_dim_head=16, num_classes=10,
    )  # fmt: skip


@model("performer-pytorch", "PerformerLM", IDS)
def _performer() -> nn.Module:
    return of("performer_pytorch", "PerformerLM")(num_tokens=50, max_seq_len=16, **WIDTHS, dim_head=16, causal=False)


@model("linformer", "LinformerLM", IDS)
def _linformer() -> nn.Module:
    return of("linformer", "LinformerLM")(num_tokens=50, seq_len=16, **WIDTHS, k=8)


@model("nystrom-attention", "Nystromformer", TOKENS)
def _nystromformer() -> nn.Module:
    return of("nystrom_attention", "Nystromformer")(**WIDTHS, dim_head=16, num_landmarks=8)


@model("nystrom-attention", "Nystromformer-padded", TOKENS, mask=KEPT, form="masked")
def _padded_nystromformer() -> nn.Module:
    return _nystromformer()


@model("x-transformers", "ViTransformerWrapper", IMAGE)
def _encoder() -> nn.Module:
    layers = of("x_transformers", "Encoder")(**WIDTHS, attn_dim_head=16)
    return of("x_transformers", "ViTransformerWrapper")(
        image_size=64, patch_size=16, num_classes=10, attn_layers=layers
    )


@model("x-transformers", "ViTransformerWrapper-glu", IMAGE)
def _gated() -> nn.Module:
    layers = of("x_transformers", "Encoder")(
        **WIDTHS, attn_dim_head=16, ff_glu=True, ff_swish=True, use_rmsnorm=True, rotary_pos_emb=True,
        sandwich_norm=True,
    )  # fmt: skip
    return of("x_transformers", "ViTransformerWrapper")(
        image_size=64, patch_size=16, num_classes=10, attn_layers=layers
    )


@model("x-transformers", "ViTransformerWrapper-hyper", IMAGE)
def _hyper() -> nn.Module:
    layers = of("x_transformers", "Encoder")(**WIDTHS, attn_dim_head=16, num_residual_streams=4)
    return of("x_transformers", "ViTransformerWrapper")(
        image_size=64, patch_size=16, num_classes=10, attn_layers=layers
    )


@model("x-transformers", "Decoder", IDS, form="causal")
def _decoder() -> nn.Module:
    layers = of("x_transformers", "Decoder")(**WIDTHS, attn_dim_head=16)
    return of("x_transformers", "TransformerWrapper")(num_tokens=50, max_seq_len=16, attn_layers=layers)


@model("x-transformers", "Decoder-shifted-alibi", IDS, form="causal")
def _shifted() -> nn.Module:
    layers = of("x_transformers", "Decoder")(
        **WIDTHS, attn_dim_head=16, shift_tokens=1, alibi_pos_bias=True, alibi_num_heads=1
    )
    return of("x_transformers", "TransformerWrapper")(num_tokens=50, max_seq_len=16, attn_layers=layers)


@model("x-transformers", "Encoder-padded", IDS, mask=KEPT, form="masked")
def _padded() -> nn.Module:
    layers = of("x_transformers", "Encoder")(**WIDTHS, attn_dim_head=16)
    return of("x_transformers", "TransformerWrapper")(num_tokens=50, max_seq_len=16, attn_layers=layers)


@model("memory-efficient-attention-pytorch", "Transformer", IDS, form="causal")
def _memory_efficient() -> nn.Module:
    return of("memory_efficient_attention_pytorch.transformer", "Transformer")(
        num_tokens=50, **WIDTHS, causal=True, dim_head=16, max_seq_len=16
    )
