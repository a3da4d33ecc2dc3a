"""transformers: audio, several modalities, time series."""

from __future__ import annotations

from benchmarks.zoo.configurations import (
    CLIP,
    CLIP_TEXT,
    SEQ2SEQ_SIZES,
    SMALL,
    TEXT_SIZES,
    VISION_SIZES,
    WAVE_SIZES,
    Row,
    both,
    noise,
    wave,
)
from benchmarks.zoo.entry import image, merged, tokens

AUDIO: tuple[Row, ...] = (
    ("wav2vec2", "Wav2Vec2ForCTC", WAVE_SIZES, wave()),
    (
        "wav2vec2-stable-layer-norm",
        "Wav2Vec2Model",
        merged(WAVE_SIZES, {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}),
        wave(),
    ),
    ("hubert", "HubertModel", WAVE_SIZES, wave()),
    ("wavlm", "WavLMModel", WAVE_SIZES, wave()),
    ("unispeech", "UniSpeechModel", WAVE_SIZES, wave()),
    ("data2vec-audio", "Data2VecAudioModel", merged(WAVE_SIZES, {"conv_pos_kernel_size": 5}), wave()),
    ("wav2vec2_conformer", "Wav2Vec2ConformerModel", WAVE_SIZES, wave()),
    ("sew", "SEWModel", merged(WAVE_SIZES, {"squeeze_factor": 2}), wave()),
    (
        "sew_d",
        "SEWDModel",
        merged(WAVE_SIZES, {"squeeze_factor": 2, "max_position_embeddings": 64, "position_buckets": 16}),
        wave(),
    ),
    (
        "whisper",
        "WhisperModel",
        merged(SEQ2SEQ_SIZES, {"num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 20}),
        lambda: {"input_features": noise(2, 16, 40), "decoder_input_ids": tokens(6)},
    ),
    (
        "speech_to_text",
        "Speech2TextModel",
        merged(
            SEQ2SEQ_SIZES,
            {"input_feat_per_channel": 16, "conv_channels": 32, "max_source_positions": 64, "max_target_positions": 20},
        ),
        lambda: {"input_features": noise(2, 40, 16), "decoder_input_ids": tokens(6)},
    ),
    (
        "audio_spectrogram_transformer",
        "ASTForAudioClassification",
        merged(SMALL, {"max_length": 40, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8, "time_stride": 8}),
        lambda: {"input_values": noise(2, 40, 16)},
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
        lambda: {"input_features": noise(2, 1, 256, 16)},
    ),
)

MULTIMODAL: tuple[Row, ...] = (
    ("clip", "CLIPModel", CLIP, both()),
    ("chinese_clip", "ChineseCLIPModel", merged(CLIP, {"text_config": TEXT_SIZES}), both()),
    ("siglip-both", "SiglipModel", {"text_config": CLIP_TEXT, "vision_config": VISION_SIZES}, both()),
    (
        "clipseg",
        "CLIPSegForImageSegmentation",
        merged(
            CLIP,
            {
                "extract_layers": [0, 1],
                "reduce_dim": 16,
                "decoder_num_attention_heads": 2,
                "decoder_intermediate_size": 32,
                "conditional_layer": 0,
            },
        ),
        both(),
    ),
    (
        "groupvit",
        "GroupViTModel",
        {
            "text_config": CLIP_TEXT,
            "vision_config": merged(
                VISION_SIZES, {"depths": [2, 2, 2], "num_group_tokens": [8, 4, 0], "num_output_groups": [8, 4, 4]}
            ),
            "projection_dim": 32,
            "projection_intermediate_dim": 48,
        },
        both(),
    ),
    ("owlvit", "OwlViTForObjectDetection", merged(CLIP, {"projection_dim": 64}), both()),
    (
        "blip",
        "BlipForConditionalGeneration",
        {
            "text_config": merged(CLIP_TEXT, {"encoder_hidden_size": 64, "use_cache": False}),
            "vision_config": VISION_SIZES,
            "projection_dim": 32,
        },
        both(),
    ),
    (
        "blip_2",
        "Blip2QFormerModel",
        merged(TEXT_SIZES, {"encoder_hidden_size": 32}),
        lambda: {"query_embeds": noise(2, 6, 64), "encoder_hidden_states": noise(2, 10, 32)},
    ),
    ("git", "GitForCausalLM", merged(TEXT_SIZES, {"vision_config": VISION_SIZES, "use_cache": False}), both()),
    (
        "vilt",
        "ViltForQuestionAnswering",
        merged(TEXT_SIZES, {"image_size": 32, "patch_size": 8, "max_image_length": -1, "num_labels": 5}),
        both(),
    ),
    (
        "visual_bert",
        "VisualBertModel",
        merged(TEXT_SIZES, {"visual_embedding_dim": 32}),
        lambda: {"input_ids": tokens(8), "visual_embeds": noise(2, 6, 32)},
    ),
    (
        "bridgetower",
        "BridgeTowerModel",
        {
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "text_config": merged(TEXT_SIZES, {}),
            "vision_config": merged(SMALL, {"image_size": 32, "patch_size": 8}),
        },
        lambda: merged(both()(), {"pixel_mask": None}),
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
        lambda: {"input_ids": tokens(8), "visual_feats": noise(2, 6, 32), "visual_pos": noise(2, 6, 4)},
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
        lambda: {"past_values": noise(2, 32, 2)},
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
        lambda: {"past_values": noise(2, 32, 2)},
    ),
)
