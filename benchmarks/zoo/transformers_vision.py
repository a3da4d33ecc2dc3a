"""transformers: vision and video encoders."""

from __future__ import annotations

from benchmarks.zoo.configurations import SWIN, VISION_SIZES, Row, frames, noise, pixels
from benchmarks.zoo.entry import image, merged

VISION: tuple[Row, ...] = (
    ("vit", "ViTForImageClassification", VISION_SIZES, pixels()),
    ("deit", "DeiTForImageClassification", VISION_SIZES, pixels()),
    ("beit", "BeitForImageClassification", VISION_SIZES, pixels()),
    ("data2vec", "Data2VecVisionForImageClassification", VISION_SIZES, pixels()),
    ("dinov2", "Dinov2ForImageClassification", VISION_SIZES, pixels()),
    ("dinov2", "Dinov2Model", merged(VISION_SIZES, {"use_swiglu_ffn": True}), pixels()),
    ("dinov2_with_registers", "Dinov2WithRegistersForImageClassification", VISION_SIZES, pixels()),
    ("dinov3_vit", "DINOv3ViTModel", VISION_SIZES, pixels()),
    ("ijepa", "IJepaForImageClassification", VISION_SIZES, pixels()),
    ("vit_msn", "ViTMSNForImageClassification", VISION_SIZES, pixels()),
    (
        "vit_mae",
        "ViTMAEForPreTraining",
        merged(
            VISION_SIZES,
            {
                "decoder_hidden_size": 32,
                "decoder_num_hidden_layers": 2,
                "decoder_num_attention_heads": 4,
                "decoder_intermediate_size": 64,
            },
        ),
        lambda: {"pixel_values": image(32), "noise": noise(2, 16)},
    ),
    (
        "vitdet",
        "VitDetModel",
        merged(
            VISION_SIZES,
            {
                "image_size": 64,
                "window_size": 4,
                "window_block_indices": [0],
                "use_relative_position_embeddings": True,
                "pretrain_image_size": 64,
            },
        ),
        pixels(64),
    ),
    ("swin", "SwinForImageClassification", SWIN, pixels(64)),
    ("swinv2", "Swinv2ForImageClassification", merged(SWIN, {"window_size": 4}), pixels(64)),
    (
        "hiera",
        "HieraForImageClassification",
        {"image_size": [64, 64], "embed_dim": 24, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8]},
        pixels(64),
    ),
    (
        "pvt",
        "PvtForImageClassification",
        {"image_size": 64, "hidden_sizes": [16, 32, 40, 64], "depths": [2, 2, 2, 2]},
        pixels(64),
    ),
    (
        "pvt_v2",
        "PvtV2ForImageClassification",
        {"image_size": 64, "hidden_sizes": [16, 32, 40, 64], "depths": [2, 2, 2, 2]},
        pixels(64),
    ),
    ("cvt", "CvtForImageClassification", {"embed_dim": [16, 48, 96], "depth": [1, 2, 3]}, pixels(64)),
    ("levit", "LevitForImageClassification", {"image_size": 128, "depths": [2, 2, 2]}, pixels(128)),
    (
        "poolformer",
        "PoolFormerForImageClassification",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [2, 2, 2, 2]},
        pixels(64),
    ),
    (
        "focalnet",
        "FocalNetForImageClassification",
        {"image_size": 64, "embed_dim": 24, "depths": [2, 2, 2, 2]},
        pixels(64),
    ),
    (
        "mobilevit",
        "MobileViTForImageClassification",
        {"image_size": 128, "hidden_sizes": [48, 64, 80], "neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 96]},
        pixels(128),
    ),
    ("mobilevitv2", "MobileViTV2ForImageClassification", {"image_size": 128, "width_multiplier": 0.5}, pixels(128)),
    (
        "swiftformer",
        "SwiftFormerForImageClassification",
        {"embed_dims": [16, 24, 32, 48], "depths": [2, 2, 2, 2]},
        pixels(64),
    ),
    (
        "convnextv2",
        "ConvNextV2ForImageClassification",
        {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]},
        pixels(64),
    ),
    ("siglip", "SiglipVisionModel", VISION_SIZES, pixels()),
    ("aimv2", "Aimv2VisionModel", VISION_SIZES, pixels()),
    (
        "perceiver",
        "PerceiverForImageClassificationLearned",
        {
            "num_latents": 8,
            "d_latents": 32,
            "num_blocks": 2,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 4,
            "num_cross_attention_heads": 1,
            "image_size": 32,
            "num_labels": 10,
        },
        pixels(),
    ),
)

VIDEO: tuple[Row, ...] = (
    (
        "videomae",
        "VideoMAEForVideoClassification",
        merged(VISION_SIZES, {"num_frames": 4, "tubelet_size": 2}),
        frames(),
    ),
    ("timesformer", "TimesformerForVideoClassification", merged(VISION_SIZES, {"num_frames": 4}), frames()),
    (
        "vivit",
        "VivitForVideoClassification",
        merged(VISION_SIZES, {"num_frames": 4, "tubelet_size": [2, 8, 8]}),
        frames(),
    ),
    (
        "vjepa2",
        "VJEPA2Model",
        {
            "crop_size": 32,
            "patch_size": 8,
            "frames_per_clip": 4,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "mlp_ratio": 2.0,
            "pred_hidden_size": 48,
            "pred_num_attention_heads": 4,
            "pred_num_hidden_layers": 2,
            "pred_num_mask_tokens": 2,
            "pred_mlp_ratio": 2.0,
        },
        lambda: {"pixel_values_videos": noise(2, 4, 3, 32, 32)},
    ),
)
