"""transformers: segmentation, depth, pose, matting and detection."""

from __future__ import annotations

from benchmarks.zoo.configurations import DETR, RESNET, SMALL, SWIN, VISION_SIZES, Row, pixels
from benchmarks.zoo.entry import image, merged

DENSE: tuple[Row, ...] = (
    (
        "segformer",
        "SegformerForSemanticSegmentation",
        {"hidden_sizes": [16, 32, 40, 64], "depths": [2, 2, 2, 2], "decoder_hidden_size": 32},
        pixels(64),
    ),
    (
        "glpn",
        "GLPNForDepthEstimation",
        {"hidden_sizes": [16, 32, 40, 64], "depths": [2, 2, 2, 2], "decoder_hidden_size": 16},
        pixels(64),
    ),
    (
        "dpt",
        "DPTForDepthEstimation",
        merged(
            VISION_SIZES,
            {
                "num_hidden_layers": 4,
                "backbone_out_indices": [0, 1, 2, 3],
                "neck_hidden_sizes": [16, 24, 32, 32],
                "fusion_hidden_size": 16,
            },
        ),
        pixels(),
    ),
    (
        "depth_anything",
        "DepthAnythingForDepthEstimation",
        {
            "backbone_config": merged(
                VISION_SIZES,
                {
                    "model_type": "dinov2",
                    "num_hidden_layers": 4,
                    "reshape_hidden_states": False,
                    "out_features": ["stage1", "stage2", "stage3", "stage4"],
                },
            ),
            "reassemble_hidden_size": 64,
            "neck_hidden_sizes": [16, 24, 32, 32],
            "fusion_hidden_size": 16,
            "head_hidden_size": 16,
            "patch_size": 8,
        },
        pixels(),
    ),
    (
        "upernet-swin",
        "UperNetForSemanticSegmentation",
        {
            "backbone_config": merged(
                SWIN, {"model_type": "swin", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
            ),
            "hidden_size": 32,
            "auxiliary_in_channels": 96,
            "auxiliary_channels": 16,
            "num_labels": 5,
        },
        pixels(64),
    ),
    (
        "upernet-vit",
        "UperNetForSemanticSegmentation",
        {
            "backbone_config": merged(
                VISION_SIZES,
                {
                    "model_type": "beit",
                    "num_hidden_layers": 4,
                    "out_features": ["stage1", "stage2", "stage3", "stage4"],
                    "image_size": 64,
                    "patch_size": 16,
                    "out_indices": None,
                    "add_fpn": True,
                    "reshape_hidden_states": True,
                },
            ),
            "hidden_size": 32,
            "auxiliary_in_channels": 64,
            "auxiliary_channels": 16,
            "num_labels": 5,
        },
        pixels(64),
    ),
    (
        "maskformer",
        "MaskFormerForInstanceSegmentation",
        {
            "backbone_config": merged(
                SWIN, {"model_type": "swin", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
            ),
            "decoder_config": merged(DETR, {"model_type": "detr"}),
            "fpn_feature_size": 32,
            "mask_feature_size": 32,
        },
        pixels(64),
    ),
    (
        "mask2former",
        "Mask2FormerForUniversalSegmentation",
        {
            "backbone_config": merged(
                SWIN, {"model_type": "swin", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
            ),
            "feature_size": 32,
            "mask_feature_size": 32,
            "hidden_dim": 32,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "encoder_feedforward_dim": 64,
            "dim_feedforward": 64,
            "num_attention_heads": 4,
            "num_queries": 6,
        },
        pixels(64),
    ),
    (
        "eomt",
        "EomtForUniversalSegmentation",
        merged(
            VISION_SIZES,
            {"image_size": 64, "patch_size": 8, "num_queries": 6, "num_blocks": 1, "num_upscale_blocks": 1},
        ),
        pixels(64),
    ),
    (
        "sam",
        "SamVisionModel",
        merged(
            SMALL,
            {
                "image_size": 64,
                "patch_size": 8,
                "window_size": 3,
                "global_attn_indexes": [1],
                "output_channels": 32,
                "mlp_dim": 128,
            },
        ),
        pixels(64),
    ),
    ("detr", "DetrForObjectDetection", merged(DETR, {"backbone_config": RESNET}), pixels(64)),
    (
        "table_transformer",
        "TableTransformerForObjectDetection",
        merged(DETR, {"backbone_config": RESNET}),
        pixels(64),
    ),
    ("conditional_detr", "ConditionalDetrForObjectDetection", merged(DETR, {"backbone_config": RESNET}), pixels(64)),
    (
        "deformable_detr",
        "DeformableDetrForObjectDetection",
        merged(DETR, {"backbone_config": RESNET, "num_feature_levels": 3}),
        pixels(64),
    ),
    (
        "rt_detr",
        "RTDetrForObjectDetection",
        {
            "backbone_config": {
                "model_type": "rt_detr_resnet",
                "embedding_size": 16,
                "hidden_sizes": [16, 24, 32, 48],
                "depths": [1, 1, 1, 1],
                "out_features": ["stage2", "stage3", "stage4"],
            },
            "encoder_hidden_dim": 32,
            "encoder_in_channels": [24, 32, 48],
            "encoder_ffn_dim": 64,
            "d_model": 32,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "decoder_in_channels": [32, 32, 32],
            "decoder_ffn_dim": 64,
            "decoder_layers": 2,
            "num_queries": 6,
            "num_denoising": 0,
        },
        pixels(64),
    ),
    (
        "yolos",
        "YolosForObjectDetection",
        merged(VISION_SIZES, {"image_size": [64, 64], "num_detection_tokens": 6}),
        pixels(64),
    ),
    (
        "vitpose",
        "VitPoseForPoseEstimation",
        {
            "backbone_config": merged(
                SMALL,
                {
                    "model_type": "vitpose_backbone",
                    "image_size": [64, 32],
                    "patch_size": [16, 16],
                    "out_features": ["stage2"],
                    "out_indices": None,
                },
            ),
            "num_labels": 5,
        },
        lambda: {"pixel_values": image((64, 32))},
    ),
    (
        "vitmatte",
        "VitMatteForImageMatting",
        {
            "backbone_config": merged(
                VISION_SIZES,
                {
                    "model_type": "vitdet",
                    "num_channels": 4,
                    "image_size": 64,
                    "patch_size": 16,
                    "pretrain_image_size": 64,
                    "out_features": ["stage2"],
                },
            ),
            "hidden_size": 64,
            "fusion_hidden_sizes": [32, 16, 16, 16],
        },
        lambda: {"pixel_values": image(64, channels=4)},
    ),
)
