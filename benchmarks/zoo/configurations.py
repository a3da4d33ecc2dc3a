"""Small sizes and inputs that many of transformers' architectures share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.zoo.entry import image, merged, tokens

Inputs = Callable[[], dict[str, Any]]

# Family, model class, configuration, inputs; a nested dictionary with a "model_type" becomes a configuration.
Row = tuple[str, str, dict[str, Any], Inputs]

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
VISION_SIZES = merged(SMALL, {"image_size": 32, "patch_size": 8})
TEXT_SIZES = merged(SMALL, {"vocab_size": 99, "max_position_embeddings": 64})
DECODER_SIZES = merged(TEXT_SIZES, {"num_key_value_heads": 2, "use_cache": False, "pad_token_id": 0})
SEQ2SEQ_SIZES = {
    "vocab_size": 99,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "use_cache": False,
    "pad_token_id": 1,
    "decoder_start_token_id": 2,
}
T5_SIZES = {
    "vocab_size": 99,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "use_cache": False,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}
WAVE_SIZES = merged(
    SMALL,
    {
        "vocab_size": 32,
        "conv_dim": (32, 32, 32),
        "conv_kernel": (10, 3, 3),
        "conv_stride": (5, 2, 2),
        "num_feat_extract_layers": 3,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
        "mask_time_prob": 0.0,
        "mask_feature_prob": 0.0,
    },
)
RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 24, 32, 48],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage2", "stage3", "stage4"],
}
DETR = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 6,
    "num_labels": 5,
    "use_timm_backbone": False,
    "backbone": None,
    "use_pretrained_backbone": False,
}
SWIN = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 24,
    "depths": [2, 2, 2, 2],
    "num_heads": [1, 2, 4, 8],
    "window_size": 2,
}
CLIP_TEXT = merged(SMALL, {"vocab_size": 99, "max_position_embeddings": 32, "eos_token_id": 98})
CLIP = {"text_config": CLIP_TEXT, "vision_config": VISION_SIZES, "projection_dim": 32}


def noise(*shape: int) -> Any:
    """Normal noise of a shape."""

    return torch.randn(*shape)


def pixels(size: int = 32) -> Inputs:
    """Square pictures."""
    return lambda: {"pixel_values": image(size)}


def frames(count: int = 4, size: int = 32) -> Inputs:
    """Short videos: ``[2, count, 3, size, size]``."""

    def build() -> dict[str, Any]:

        return {"pixel_values": torch.randn(2, count, 3, size, size)}

    return build


def ids(length: int = 16) -> Inputs:
    """Token numbers."""
    return lambda: {"input_ids": tokens(length)}


def pairs(length: int = 16) -> Inputs:
    """Token numbers for an encoder and a decoder."""
    return lambda: {"input_ids": tokens(length), "decoder_input_ids": tokens(length // 2)}


def masked_pairs(length: int = 16) -> Inputs:
    """Token numbers for an encoder and a decoder, each with a mask that hides nothing."""
    return lambda: {
        "input_ids": tokens(length),
        "attention_mask": torch.ones(2, length, dtype=torch.long),
        "decoder_input_ids": tokens(length // 2),
        "decoder_attention_mask": torch.ones(2, length // 2, dtype=torch.long),
    }


def wave(length: int = 2000) -> Inputs:
    """Waveforms: ``[2, length]``."""

    def build() -> dict[str, Any]:

        return {"input_values": torch.randn(2, length)}

    return build


def both(length: int = 12, size: int = 32) -> Inputs:
    """Token numbers with their mask, and pictures."""

    def build() -> dict[str, Any]:

        return {
            "input_ids": tokens(length),
            "pixel_values": image(size),
            "attention_mask": torch.ones(2, length, dtype=torch.long),
        }

    return build


def boxes(length: int = 12) -> Inputs:
    """Token numbers and the boxes they stand in."""

    def build() -> dict[str, Any]:

        return {"input_ids": tokens(length), "bbox": torch.tensor([10, 20, 40, 60]).expand(2, length, 4).contiguous()}

    return build
