"""transformers: architectures of every kind, built small from configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks.zoo.entry import Built, Entry, image, merged, tokens

_SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
_VISION = merged(_SMALL, {"image_size": 32, "patch_size": 8})
_TEXT = merged(_SMALL, {"vocab_size": 99, "max_position_embeddings": 64})
_DECODER = merged(_TEXT, {"num_key_value_heads": 2, "use_cache": False, "pad_token_id": 0})
_SEQ2SEQ = {
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
_T5 = {
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
_WAVE = merged(
    _SMALL,
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

Inputs = Callable[[], dict[str, Any]]


def _pixels(size: int = 32) -> Inputs:
    return lambda: {"pixel_values": image(size)}


def _frames(count: int = 4, size: int = 32) -> Inputs:
    def build() -> dict[str, Any]:
        import torch

        return {"pixel_values": torch.randn(2, count, 3, size, size)}

    return build


def _ids(length: int = 16) -> Inputs:
    return lambda: {"input_ids": tokens(length)}


def _pairs(length: int = 16) -> Inputs:
    return lambda: {"input_ids": tokens(length), "decoder_input_ids": tokens(length // 2)}


def _wave(length: int = 2000) -> Inputs:
    def build() -> dict[str, Any]:
        import torch

        return {"input_values": torch.randn(2, length)}

    return build


def _both(length: int = 12, size: int = 32) -> Inputs:
    def build() -> dict[str, Any]:
        import torch

        return {
            "input_ids": tokens(length),
            "pixel_values": image(size),
            "attention_mask": torch.ones(2, length, dtype=torch.long),
        }

    return build


def _boxes(length: int = 12) -> Inputs:
    def build() -> dict[str, Any]:
        import torch

        return {"input_ids": tokens(length), "bbox": torch.tensor([10, 20, 40, 60]).expand(2, length, 4).contiguous()}

    return build


Row = tuple[str, str, dict[str, Any], Inputs]

# (family, model class, configuration, inputs); nested dictionaries with a "model_type" become configurations.
_RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 24, 32, 48],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage2", "stage3", "stage4"],
}
_DETR = {
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
_SWIN = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 24,
    "depths": [2, 2, 2, 2],
    "num_heads": [1, 2, 4, 8],
    "window_size": 2,
}
_CLIP_TEXT = merged(_SMALL, {"vocab_size": 99, "max_position_embeddings": 32, "eos_token_id": 98})
_CLIP = {"text_config": _CLIP_TEXT, "vision_config": _VISION, "projection_dim": 32}

VISION: tuple[Row, ...] = (
    ("vit", "ViTForImageClassification", _VISION, _pixels()),
    ("deit", "DeiTForImageClassification", _VISION, _pixels()),
    ("beit", "BeitForImageClassification", _VISION, _pixels()),
    ("data2vec", "Data2VecVisionForImageClassification", _VISION, _pixels()),
    ("dinov2", "Dinov2ForImageClassification", _VISION, _pixels()),
    ("dinov2", "Dinov2Model", merged(_VISION, {"use_swiglu_ffn": True}), _pixels()),
    ("dinov2_with_registers", "Dinov2WithRegistersForImageClassification", _VISION, _pixels()),
    ("dinov3_vit", "DINOv3ViTModel", _VISION, _pixels()),
    ("ijepa", "IJepaForImageClassification", _VISION, _pixels()),
    ("vit_msn", "ViTMSNForImageClassification", _VISION, _pixels()),
    (
        "vit_mae",
        "ViTMAEForPreTraining",
        merged(
            _VISION,
            {
                "decoder_hidden_size": 32,
                "decoder_num_hidden_layers": 2,
                "decoder_num_attention_heads": 4,
                "decoder_intermediate_size": 64,
            },
        ),
        _pixels(),
    ),
    (
        "vitdet",
        "VitDetModel",
        merged(
            _VISION,
            {
                "image_size": 64,
                "window_size": 4,
                "window_block_indices": [0],
                "use_relative_position_embeddings": True,
                "pretrain_image_size": 64,
            },
        ),
        _pixels(64),
    ),
    ("swin", "SwinForImageClassification", _SWIN, _pixels(64)),
    ("swinv2", "Swinv2ForImageClassification", merged(_SWIN, {"window_size": 4}), _pixels(64)),
    (
        "hiera",
        "HieraForImageClassification",
        {"image_size": [64, 64], "embed_dim": 24, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8]},
        _pixels(64),
    ),
    (
        "pvt",
        "PvtForImageClassification",
        {"image_size": 64, "hidden_sizes": [16, 32, 40, 64], "depths": [2, 2, 2, 2]},
        _pixels(64),
    ),
    (
        "pvt_v2",
        "PvtV2ForImageClassification",
        {"image_size": 64, "hidden_sizes": [16, 32, 40, 64], "depths": [2, 2, 2, 2]},
        _pixels(64),
    ),
    ("cvt", "CvtForImageClassification", {"embed_dim": [16, 48, 96], "depth": [1, 2, 3]}, _pixels(64)),
    ("levit", "LevitForImageClassification", {"image_size": 128, "depths": [2, 2, 2]}, _pixels(128)),
    (
        "poolformer",
        "PoolFormerForImageClassification",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [2, 2, 2, 2]},
        _pixels(64),
    ),
    (
        "focalnet",
        "FocalNetForImageClassification",
        {"image_size": 64, "embed_dim": 24, "depths": [2, 2, 2, 2]},
        _pixels(64),
    ),
    (
        "mobilevit",
        "MobileViTForImageClassification",
        {"image_size": 64, "hidden_sizes": [48, 64, 80], "neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 96]},
        _pixels(64),
    ),
    ("mobilevitv2", "MobileViTV2ForImageClassification", {"image_size": 64, "width_multiplier": 0.5}, _pixels(64)),
    (
        "swiftformer",
        "SwiftFormerForImageClassification",
        {"embed_dims": [16, 24, 32, 48], "depths": [2, 2, 2, 2]},
        _pixels(64),
    ),
    (
        "convnextv2",
        "ConvNextV2ForImageClassification",
        {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]},
        _pixels(64),
    ),
    ("siglip", "SiglipVisionModel", _VISION, _pixels()),
    ("aimv2", "Aimv2VisionModel", _VISION, _pixels()),
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
        _pixels(),
    ),
)

DENSE: tuple[Row, ...] = (
    (
        "segformer",
        "SegformerForSemanticSegmentation",
        {"hidden_sizes": [16, 32, 40, 64], "depths": [2, 2, 2, 2], "decoder_hidden_size": 32},
        _pixels(64),
    ),
    (
        "glpn",
        "GLPNForDepthEstimation",
        {"hidden_sizes": [16, 32, 40, 64], "depths": [2, 2, 2, 2], "decoder_hidden_size": 16},
        _pixels(64),
    ),
    (
        "dpt",
        "DPTForDepthEstimation",
        merged(
            _VISION,
            {
                "num_hidden_layers": 4,
                "backbone_out_indices": [0, 1, 2, 3],
                "neck_hidden_sizes": [16, 24, 32, 32],
                "fusion_hidden_size": 16,
            },
        ),
        _pixels(),
    ),
    (
        "depth_anything",
        "DepthAnythingForDepthEstimation",
        {
            "backbone_config": merged(
                _VISION,
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
        _pixels(),
    ),
    (
        "upernet-swin",
        "UperNetForSemanticSegmentation",
        {
            "backbone_config": merged(
                _SWIN, {"model_type": "swin", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
            ),
            "hidden_size": 32,
            "auxiliary_in_channels": 96,
            "auxiliary_channels": 16,
            "num_labels": 5,
        },
        _pixels(64),
    ),
    (
        "upernet-vit",
        "UperNetForSemanticSegmentation",
        {
            "backbone_config": merged(
                _VISION,
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
        _pixels(64),
    ),
    (
        "maskformer",
        "MaskFormerForInstanceSegmentation",
        {
            "backbone_config": merged(
                _SWIN, {"model_type": "swin", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
            ),
            "decoder_config": merged(_DETR, {"model_type": "detr"}),
            "fpn_feature_size": 32,
            "mask_feature_size": 32,
        },
        _pixels(64),
    ),
    (
        "mask2former",
        "Mask2FormerForUniversalSegmentation",
        {
            "backbone_config": merged(
                _SWIN, {"model_type": "swin", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
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
        _pixels(64),
    ),
    (
        "eomt",
        "EomtForUniversalSegmentation",
        merged(
            _VISION, {"image_size": 64, "patch_size": 8, "num_queries": 6, "num_blocks": 1, "num_upscale_blocks": 1}
        ),
        _pixels(64),
    ),
    (
        "sam",
        "SamVisionModel",
        merged(
            _SMALL,
            {
                "image_size": 64,
                "patch_size": 8,
                "window_size": 3,
                "global_attn_indexes": [1],
                "output_channels": 32,
                "mlp_dim": 128,
            },
        ),
        _pixels(64),
    ),
    ("detr", "DetrForObjectDetection", merged(_DETR, {"backbone_config": _RESNET}), _pixels(64)),
    (
        "table_transformer",
        "TableTransformerForObjectDetection",
        merged(_DETR, {"backbone_config": _RESNET}),
        _pixels(64),
    ),
    ("conditional_detr", "ConditionalDetrForObjectDetection", merged(_DETR, {"backbone_config": _RESNET}), _pixels(64)),
    (
        "deformable_detr",
        "DeformableDetrForObjectDetection",
        merged(_DETR, {"backbone_config": _RESNET, "num_feature_levels": 3}),
        _pixels(64),
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
        _pixels(64),
    ),
    (
        "yolos",
        "YolosForObjectDetection",
        merged(_VISION, {"image_size": [64, 64], "num_detection_tokens": 6}),
        _pixels(64),
    ),
    (
        "vitpose",
        "VitPoseForPoseEstimation",
        {
            "backbone_config": merged(
                _SMALL,
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
                _VISION,
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

VIDEO: tuple[Row, ...] = (
    ("videomae", "VideoMAEForVideoClassification", merged(_VISION, {"num_frames": 4, "tubelet_size": 2}), _frames()),
    ("timesformer", "TimesformerForVideoClassification", merged(_VISION, {"num_frames": 4}), _frames()),
    ("vivit", "VivitForVideoClassification", merged(_VISION, {"num_frames": 4, "tubelet_size": [2, 8, 8]}), _frames()),
    (
        "x_clip",
        "XCLIPVisionModel",
        merged(_VISION, {"num_frames": 4, "mit_hidden_size": 64}),
        lambda: {"pixel_values": image(32, batch=8)},
    ),
)

AUDIO: tuple[Row, ...] = (
    ("wav2vec2", "Wav2Vec2ForCTC", _WAVE, _wave()),
    (
        "wav2vec2-stable-layer-norm",
        "Wav2Vec2Model",
        merged(_WAVE, {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}),
        _wave(),
    ),
    ("hubert", "HubertModel", _WAVE, _wave()),
    ("wavlm", "WavLMModel", _WAVE, _wave()),
    ("unispeech", "UniSpeechModel", _WAVE, _wave()),
    ("data2vec-audio", "Data2VecAudioModel", merged(_WAVE, {"conv_pos_kernel_size": 5}), _wave()),
    ("wav2vec2_conformer", "Wav2Vec2ConformerModel", _WAVE, _wave()),
    ("sew", "SEWModel", merged(_WAVE, {"squeeze_factor": 2}), _wave()),
    (
        "sew_d",
        "SEWDModel",
        merged(_WAVE, {"squeeze_factor": 2, "max_position_embeddings": 64, "position_buckets": 16}),
        _wave(),
    ),
    (
        "whisper",
        "WhisperModel",
        merged(_SEQ2SEQ, {"num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 20}),
        lambda: {"input_features": _noise(2, 16, 40), "decoder_input_ids": tokens(6)},
    ),
    (
        "speech_to_text",
        "Speech2TextModel",
        merged(
            _SEQ2SEQ,
            {"input_feat_per_channel": 16, "conv_channels": 32, "max_source_positions": 64, "max_target_positions": 20},
        ),
        lambda: {"input_features": _noise(2, 40, 16), "decoder_input_ids": tokens(6)},
    ),
    (
        "audio_spectrogram_transformer",
        "ASTForAudioClassification",
        merged(
            _SMALL, {"max_length": 40, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8, "time_stride": 8}
        ),
        lambda: {"input_values": _noise(2, 40, 16)},
    ),
    (
        "clap",
        "ClapAudioModelWithProjection",
        {
            "spec_size": 64,
            "num_mel_bins": 16,
            "patch_size": 4,
            "patch_stride": [4, 4],
            "patch_embeds_hidden_size": 24,
            "depths": [2, 2, 2],
            "num_attention_heads": [1, 2, 4],
            "window_size": 4,
            "hidden_size": 96,
            "num_hidden_layers": 3,
            "projection_dim": 16,
        },
        lambda: {"input_features": _noise(2, 1, 256, 16)},
    ),
)

ENCODERS: tuple[Row, ...] = (
    ("bert", "BertForSequenceClassification", _TEXT, _ids()),
    ("roberta", "RobertaModel", _TEXT, _ids()),
    ("xlm_roberta", "XLMRobertaModel", _TEXT, _ids()),
    ("camembert", "CamembertModel", _TEXT, _ids()),
    ("roberta_prelayernorm", "RobertaPreLayerNormModel", _TEXT, _ids()),
    ("albert", "AlbertModel", merged(_TEXT, {"embedding_size": 32, "num_hidden_layers": 3}), _ids()),
    ("deberta", "DebertaModel", merged(_TEXT, {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}), _ids()),
    (
        "deberta_v2",
        "DebertaV2Model",
        merged(
            _TEXT,
            {
                "relative_attention": True,
                "pos_att_type": ["c2p", "p2c"],
                "position_buckets": 16,
                "norm_rel_ebd": "layer_norm",
            },
        ),
        _ids(),
    ),
    ("electra", "ElectraModel", merged(_TEXT, {"embedding_size": 32}), _ids()),
    (
        "distilbert",
        "DistilBertModel",
        {"vocab_size": 99, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "max_position_embeddings": 64},
        _ids(),
    ),
    ("mpnet", "MPNetModel", _TEXT, _ids()),
    ("longformer", "LongformerModel", merged(_TEXT, {"attention_window": [4, 4]}), _ids()),
    ("big_bird", "BigBirdModel", merged(_TEXT, {"attention_type": "original_full"}), _ids()),
    (
        "funnel",
        "FunnelModel",
        {
            "vocab_size": 99,
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
            "d_model": 64,
            "n_head": 4,
            "d_head": 16,
            "d_inner": 128,
        },
        _ids(),
    ),
    ("convbert", "ConvBertModel", merged(_TEXT, {"embedding_size": 32, "conv_kernel_size": 3}), _ids()),
    (
        "squeezebert",
        "SqueezeBertModel",
        merged(
            _TEXT,
            {
                "embedding_size": 64,
                "q_groups": 2,
                "k_groups": 2,
                "v_groups": 2,
                "post_attention_groups": 1,
                "intermediate_groups": 2,
                "output_groups": 2,
            },
        ),
        _ids(),
    ),
    (
        "mobilebert",
        "MobileBertModel",
        merged(
            _TEXT,
            {"embedding_size": 32, "true_hidden_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 2},
        ),
        _ids(),
    ),
    (
        "nystromformer",
        "NystromformerModel",
        merged(_TEXT, {"num_landmarks": 4, "segment_means_seq_len": 16, "max_position_embeddings": 510}),
        _ids(),
    ),
    ("fnet", "FNetModel", merged(_TEXT, {"use_tpu_fourier_optimizations": False}), _ids()),
    ("roformer", "RoFormerModel", merged(_TEXT, {"embedding_size": 32}), _ids()),
    ("rembert", "RemBertModel", merged(_TEXT, {"input_embedding_size": 32, "output_embedding_size": 32}), _ids()),
    ("megatron_bert", "MegatronBertModel", _TEXT, _ids()),
    (
        "esm",
        "EsmModel",
        merged(_TEXT, {"pad_token_id": 1, "position_embedding_type": "rotary", "token_dropout": False}),
        _ids(),
    ),
    ("ibert", "IBertModel", _TEXT, _ids()),
    (
        "modernbert",
        "ModernBertModel",
        merged(
            _TEXT,
            {
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "cls_token_id": 1,
                "sep_token_id": 2,
                "local_attention": 8,
                "global_attn_every_n_layers": 2,
            },
        ),
        _ids(),
    ),
    ("nomic_bert", "NomicBertModel", _TEXT, _ids()),
    ("eurobert", "EuroBertModel", merged(_TEXT, {"num_key_value_heads": 4, "pad_token_id": 0}), _ids()),
    (
        "xlm",
        "XLMModel",
        {
            "use_cache": False,
            "vocab_size": 99,
            "emb_dim": 64,
            "n_layers": 2,
            "n_heads": 4,
            "max_position_embeddings": 64,
            "pad_index": 0,
        },
        _ids(),
    ),
    (
        "xlnet",
        "XLNetModel",
        {"vocab_size": 99, "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128, "use_mems_eval": False},
        _ids(),
    ),
    (
        "canine",
        "CanineModel",
        merged(
            _SMALL,
            {
                "max_position_embeddings": 256,
                "num_hash_buckets": 64,
                "num_hash_functions": 4,
                "downsampling_rate": 4,
                "upsampling_kernel_size": 4,
                "local_transformer_stride": 16,
            },
        ),
        _ids(32),
    ),
    ("layoutlm", "LayoutLMModel", merged(_TEXT, {"max_2d_position_embeddings": 128}), _boxes()),
    (
        "lilt",
        "LiltModel",
        merged(_TEXT, {"hidden_size": 48, "max_2d_position_embeddings": 128, "channel_shrink_ratio": 4}),
        _boxes(),
    ),
    (
        "layoutlmv3",
        "LayoutLMv3Model",
        merged(
            _TEXT,
            {
                "max_2d_position_embeddings": 128,
                "coordinate_size": 11,
                "shape_size": 10,
                "hidden_size": 64,
                "input_size": 32,
                "patch_size": 8,
                "rel_pos_bins": 8,
                "max_rel_pos": 16,
                "visual_embed": False,
            },
        ),
        _boxes(),
    ),
    (
        "perceiver-text",
        "PerceiverForMaskedLM",
        {
            "num_latents": 8,
            "d_latents": 32,
            "d_model": 32,
            "num_blocks": 2,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 4,
            "num_cross_attention_heads": 4,
            "vocab_size": 99,
            "max_position_embeddings": 16,
            "qk_channels": 16,
            "v_channels": 32,
        },
        lambda: {"inputs": tokens(16)},
    ),
)

DECODERS: tuple[Row, ...] = (
    (
        "gpt2",
        "GPT2LMHeadModel",
        {"vocab_size": 99, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False},
        _ids(),
    ),
    (
        "gpt_neo",
        "GPTNeoModel",
        {
            "vocab_size": 99,
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 64,
            "window_size": 8,
            "use_cache": False,
        },
        _ids(),
    ),
    ("gpt_neox", "GPTNeoXForCausalLM", merged(_TEXT, {"use_cache": False}), _ids()),
    (
        "gptj",
        "GPTJModel",
        {
            "vocab_size": 99,
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "rotary_dim": 8,
            "use_cache": False,
        },
        _ids(),
    ),
    (
        "codegen",
        "CodeGenModel",
        {
            "vocab_size": 99,
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "n_ctx": 64,
            "rotary_dim": 8,
            "use_cache": False,
        },
        _ids(),
    ),
    (
        "gpt_bigcode",
        "GPTBigCodeModel",
        {"vocab_size": 99, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False},
        _ids(),
    ),
    (
        "opt",
        "OPTForCausalLM",
        {
            "vocab_size": 99,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "ffn_dim": 128,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 64,
            "use_cache": False,
        },
        _ids(),
    ),
    ("llama", "LlamaForCausalLM", _DECODER, _ids()),
    ("mistral", "MistralModel", merged(_DECODER, {"sliding_window": 8}), _ids()),
    ("qwen2", "Qwen2Model", _DECODER, _ids()),
    ("qwen3", "Qwen3Model", merged(_DECODER, {"head_dim": 16}), _ids()),
    ("gemma", "GemmaModel", merged(_DECODER, {"head_dim": 16}), _ids()),
    ("gemma2", "Gemma2Model", merged(_DECODER, {"head_dim": 16, "sliding_window": 8}), _ids()),
    ("gemma3", "Gemma3TextModel", merged(_DECODER, {"head_dim": 16, "sliding_window": 8}), _ids()),
    ("phi", "PhiModel", _DECODER, _ids()),
    ("phi3", "Phi3Model", _DECODER, _ids()),
    (
        "falcon",
        "FalconModel",
        {"vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "use_cache": False},
        _ids(),
    ),
    (
        "bloom",
        "BloomModel",
        {"vocab_size": 99, "hidden_size": 64, "n_layer": 2, "n_head": 4, "use_cache": False},
        _ids(),
    ),
    (
        "mpt",
        "MptModel",
        {"vocab_size": 99, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "use_cache": False},
        _ids(),
    ),
    ("stablelm", "StableLmModel", _DECODER, _ids()),
    ("starcoder2", "Starcoder2Model", _DECODER, _ids()),
    ("cohere", "CohereModel", _DECODER, _ids()),
    ("olmo2", "Olmo2Model", _DECODER, _ids()),
    ("granite", "GraniteModel", _DECODER, _ids()),
    ("persimmon", "PersimmonModel", merged(_TEXT, {"use_cache": False, "pad_token_id": 0}), _ids()),
    ("biogpt", "BioGptModel", merged(_TEXT, {"use_cache": False}), _ids()),
    (
        "xglm",
        "XGLMModel",
        {
            "vocab_size": 99,
            "d_model": 64,
            "ffn_dim": 128,
            "num_layers": 2,
            "attention_heads": 4,
            "max_position_embeddings": 64,
            "use_cache": False,
        },
        _ids(),
    ),
    (
        "ctrl",
        "CTRLModel",
        {"vocab_size": 99, "n_embd": 64, "dff": 128, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False},
        _ids(),
    ),
    (
        "openai",
        "OpenAIGPTModel",
        {"vocab_size": 99, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
        _ids(),
    ),
)

SEQUENCES: tuple[Row, ...] = (
    ("bart", "BartModel", _SEQ2SEQ, _pairs()),
    ("mbart", "MBartModel", _SEQ2SEQ, _pairs()),
    ("pegasus", "PegasusModel", _SEQ2SEQ, _pairs()),
    ("marian", "MarianModel", _SEQ2SEQ, _pairs()),
    ("blenderbot", "BlenderbotModel", _SEQ2SEQ, _pairs()),
    ("m2m_100", "M2M100Model", _SEQ2SEQ, _pairs()),
    (
        "led",
        "LEDModel",
        merged(
            _SEQ2SEQ,
            {"attention_window": [4, 4], "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64},
        ),
        _pairs(),
    ),
    ("t5", "T5Model", _T5, _pairs()),
    ("mt5", "MT5Model", merged(_T5, {"feed_forward_proj": "gated-gelu"}), _pairs()),
    ("umt5", "UMT5Model", _T5, _pairs()),
    ("longt5", "LongT5Model", merged(_T5, {"local_radius": 4}), _pairs()),
    (
        "prophetnet",
        "ProphetNetModel",
        {
            "vocab_size": 99,
            "hidden_size": 64,
            "encoder_ffn_dim": 128,
            "num_encoder_layers": 2,
            "num_encoder_attention_heads": 4,
            "decoder_ffn_dim": 128,
            "num_decoder_layers": 2,
            "num_decoder_attention_heads": 4,
            "max_position_embeddings": 64,
            "use_cache": False,
            "ngram": 2,
        },
        _pairs(),
    ),
)

MULTIMODAL: tuple[Row, ...] = (
    ("clip", "CLIPModel", _CLIP, _both()),
    ("chinese_clip", "ChineseCLIPModel", merged(_CLIP, {"text_config": _TEXT}), _both()),
    ("siglip-both", "SiglipModel", {"text_config": _CLIP_TEXT, "vision_config": _VISION}, _both()),
    (
        "clipseg",
        "CLIPSegForImageSegmentation",
        merged(
            _CLIP,
            {
                "extract_layers": [0, 1],
                "reduce_dim": 16,
                "decoder_num_attention_heads": 2,
                "decoder_intermediate_size": 32,
                "conditional_layer": 0,
            },
        ),
        _both(),
    ),
    (
        "groupvit",
        "GroupViTModel",
        {
            "text_config": _CLIP_TEXT,
            "vision_config": merged(
                _VISION, {"depths": [2, 2, 2], "num_group_tokens": [8, 4, 0], "num_output_groups": [8, 4, 4]}
            ),
            "projection_dim": 32,
            "projection_intermediate_dim": 48,
        },
        _both(),
    ),
    ("owlvit", "OwlViTForObjectDetection", merged(_CLIP, {"projection_dim": 64}), _both()),
    (
        "blip",
        "BlipForConditionalGeneration",
        {
            "text_config": merged(_CLIP_TEXT, {"encoder_hidden_size": 64, "use_cache": False}),
            "vision_config": _VISION,
            "projection_dim": 32,
        },
        _both(),
    ),
    (
        "blip_2",
        "Blip2QFormerModel",
        merged(_TEXT, {"encoder_hidden_size": 32}),
        lambda: {"query_embeds": _noise(2, 6, 64), "encoder_hidden_states": _noise(2, 10, 32)},
    ),
    ("git", "GitForCausalLM", merged(_TEXT, {"vision_config": _VISION, "use_cache": False}), _both()),
    (
        "vilt",
        "ViltForQuestionAnswering",
        merged(_TEXT, {"image_size": 32, "patch_size": 8, "max_image_length": -1, "num_labels": 5}),
        _both(),
    ),
    (
        "visual_bert",
        "VisualBertModel",
        merged(_TEXT, {"visual_embedding_dim": 32}),
        lambda: {"input_ids": tokens(8), "visual_embeds": _noise(2, 6, 32)},
    ),
    (
        "bridgetower",
        "BridgeTowerModel",
        {
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "text_config": merged(_TEXT, {}),
            "vision_config": merged(_SMALL, {"image_size": 32, "patch_size": 8}),
        },
        lambda: merged(_both()(), {"pixel_mask": None}),
    ),
    (
        "lxmert",
        "LxmertModel",
        {
            "vocab_size": 99,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "l_layers": 2,
            "x_layers": 2,
            "r_layers": 2,
            "visual_feat_dim": 32,
            "max_position_embeddings": 64,
        },
        lambda: {"input_ids": tokens(8), "visual_feats": _noise(2, 6, 32), "visual_pos": _noise(2, 6, 4)},
    ),
    (
        "mgp_str",
        "MgpstrForSceneTextRecognition",
        {
            "image_size": [16, 32],
            "patch_size": 4,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_token_length": 5,
            "num_character_labels": 9,
            "num_bpe_labels": 11,
            "num_wordpiece_labels": 13,
        },
        lambda: {"pixel_values": image((16, 32))},
    ),
)

SERIES: tuple[Row, ...] = (
    (
        "patchtst",
        "PatchTSTForClassification",
        {
            "num_input_channels": 2,
            "context_length": 32,
            "patch_length": 4,
            "patch_stride": 4,
            "d_model": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "num_targets": 3,
        },
        lambda: {"past_values": _noise(2, 32, 2)},
    ),
    (
        "patchtsmixer",
        "PatchTSMixerModel",
        {
            "context_length": 32,
            "patch_length": 4,
            "patch_stride": 4,
            "num_input_channels": 2,
            "d_model": 16,
            "num_layers": 2,
            "mode": "common_channel",
            "gated_attn": False,
        },
        lambda: {"past_values": _noise(2, 32, 2)},
    ),
)

KINDS: Mapping[str, tuple[Row, ...]] = {
    "vision": VISION,
    "dense": DENSE,
    "video": VIDEO,
    "audio": AUDIO,
    "encoders": ENCODERS,
    "decoders": DECODERS,
    "sequences": SEQUENCES,
    "multimodal": MULTIMODAL,
    "series": SERIES,
}


def _noise(*shape: int) -> Any:
    import torch

    return torch.randn(*shape)


def _configured(options: Mapping[str, Any]) -> dict[str, Any]:
    """Turn nested dictionaries that name a model type into configurations."""
    from transformers import AutoConfig

    made: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, dict) and "model_type" in value:
            nested = _configured({name: option for name, option in value.items() if name != "model_type"})
            made[key] = AutoConfig.for_model(value["model_type"], **nested)
        else:
            made[key] = dict(value) if isinstance(value, dict) else value
    return made


def _factory(name: str, options: dict[str, Any], inputs: Inputs) -> Callable[[], Built]:
    def build() -> Built:
        import transformers

        kind = getattr(transformers, name)
        return kind(kind.config_class(**_configured(options))), (), inputs()

    return build


def entries() -> Iterator[Entry]:
    """One entry per row, named after its family."""
    seen: set[str] = set()
    for rows in KINDS.values():
        for family, name, options, inputs in rows:
            label = f"transformers/{family}" if family not in seen else f"transformers/{family}-{name}"
            seen.add(family)
            yield Entry(label, "transformers", family, _factory(name, options, inputs))
