"""timm: the smallest model of every file that contains attention or token mixing, reduced in size, and other variants.

The depth is at least two per stage if the constructor allows it. Images are small, but large enough that the last stage
has more than one token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.zoo.entry import Built, Entry, image

_VIT = {"img_size": 64, "embed_dim": 64, "num_heads": 2, "depth": 3}

# (file, registered name, picture size, constructor arguments); the first of a file is its smallest model.
MODELS: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
    ("beit", "beit_base_patch16_224", 64, _VIT),
    ("beit", "beitv2_base_patch16_224", 64, _VIT),
    ("byoanet", "halonet_h1", 256, {}),
    ("byoanet", "eca_botnext26ts_256", 64, {"img_size": 64}),
    ("byoanet", "lambda_resnet26t", 64, {}),
    ("byobnet", "bat_resnext26ts", 256, {}),
    ("byobnet", "gcresnext26ts", 64, {}),
    ("cait", "cait_xxs24_224", 64, {"img_size": 64, "depth": 3}),
    ("coat", "coat_tiny", 64, {"img_size": 64}),
    ("coat", "coat_lite_tiny", 64, {"img_size": 64}),
    ("convit", "convit_tiny", 64, {"img_size": 64, "depth": 4, "local_up_to_layer": 2}),
    ("convmixer", "convmixer_768_32", 64, {}),
    ("convnext", "test_convnext", 64, {}),
    ("convnext", "test_convnext2", 64, {}),
    ("convnext", "convnext_atto", 64, {"depths": (2, 2, 2, 2), "dims": (16, 24, 32, 48)}),
    ("cpubone", "cpubone_nano", 64, {}),
    ("crossvit", "crossvit_tiny_240", 240, {}),
    ("crossvit", "crossvit_9_dagger_240", 240, {"depth": ((1, 2, 0), (1, 2, 0))}),
    ("csatv2", "csatv2", 128, {}),
    ("davit", "davit_tiny", 64, {"depths": (2, 2, 2, 2), "embed_dims": (24, 48, 96, 192), "num_heads": (1, 2, 4, 8)}),
    ("deepseek_vit", "deepseek_vit_412m", 56, {"img_size": 56, "embed_dim": 64, "num_heads": 2, "depth": 2}),
    ("deit", "deit_tiny_patch16_224", 64, {"img_size": 64, "depth": 4}),
    ("deit", "deit_tiny_distilled_patch16_224", 64, {"img_size": 64, "depth": 3}),
    ("deit", "deit3_small_patch16_224", 64, {"img_size": 64, "depth": 3, "embed_dim": 96, "num_heads": 3}),
    ("edgenext", "edgenext_xx_small", 64, {}),
    ("efficientformer", "efficientformer_l1", 224, {}),
    ("efficientformer_v2", "efficientformerv2_s0", 64, {"img_size": 64}),
    ("efficientvim", "efficientvim_m1", 128, {}),
    ("efficientvit_mit", "efficientvit_b0", 64, {}),
    ("efficientvit_mit", "efficientvit_l1", 64, {"widths": (16, 16, 32, 64, 128), "depths": (1, 1, 1, 2, 2)}),
    ("efficientvit_msra", "efficientvit_m0", 128, {"img_size": 128}),
    ("eva", "eva02_tiny_patch14_224", 56, {"img_size": 56, "depth": 3}),
    ("eva", "vit_tiny_patch16_dinov3_qkvb", 64, {"img_size": 64, "depth": 3}),
    ("eva", "vit_pe_core_tiny_patch16_384", 64, {"img_size": 64, "depth": 3}),
    ("eva", "eva02_base_patch16_clip_224", 64, {"img_size": 64, "depth": 2, "embed_dim": 96, "num_heads": 3}),
    ("fasternet", "fasternet_t0", 64, {}),
    ("fastvit", "fastvit_t8", 64, {}),
    ("fastvit", "fastvit_sa12", 64, {}),
    ("focalnet", "focalnet_tiny_srf", 64, {"mlp_ratio": 2.0}),
    ("gcvit", "gcvit_xxtiny", 128, {"img_size": 128}),
    ("gemma4_vit", "gemma4_vit_167m", 96, {"embed_dim": 64, "depth": 2, "num_heads": 2}),
    (
        "hiera",
        "hiera_tiny_224",
        64,
        {"img_size": (64, 64), "embed_dim": 24, "stages": (2, 2, 2, 2), "q_pool": 1, "mask_unit_size": (4, 4)},
    ),
    ("hieradet_sam2", "sam2_hiera_tiny", 128, {"embed_dim": 24, "stages": (2, 2, 2, 2), "global_att_blocks": (5,)}),
    ("iformer", "iformer_t", 64, {}),
    ("inception_next", "inception_next_atto", 64, {}),
    ("levit", "levit_128s", 128, {"img_size": 128}),
    ("levit", "levit_conv_128s", 128, {"img_size": 128}),
    ("lowformer", "lowformer_b0", 64, {}),
    ("mambaout", "test_mambaout", 64, {}),
    ("maxxvit", "test_coatnet", 64, {"img_size": 64}),
    ("maxxvit", "test_maxvit", 64, {"img_size": 64}),
    ("maxxvit", "coatnext_nano_rw_224", 64, {"img_size": 64}),
    ("metaformer", "poolformer_s12", 64, {}),
    ("metaformer", "poolformerv2_s12", 64, {}),
    ("metaformer", "convformer_s18", 64, {}),
    ("metaformer", "caformer_s18", 64, {}),
    ("mlp_mixer", "mixer_s32_224", 96, {"img_size": 96}),
    ("mlp_mixer", "gmixer_12_224", 64, {"img_size": 64}),
    ("mlp_mixer", "resmlp_12_224", 64, {"img_size": 64}),
    ("mlp_mixer", "gmlp_ti16_224", 64, {"img_size": 64}),
    ("mobilenetv3", "mobilenetv4_hybrid_medium_075", 64, {}),
    ("mobilenetv5", "mobilenetv5_base", 64, {"channel_multiplier": 0.125}),
    ("mobilevit", "mobilevit_xxs", 128, {}),
    ("mobilevit", "mobilevitv2_050", 128, {}),
    ("mvitv2", "mvitv2_tiny", 64, {"img_size": 64}),
    ("mvitv2", "mvitv2_small_cls", 64, {"img_size": 64}),
    ("naflexvit", "naflexvit_base_patch16_gap", 64, {"depth": 3, "embed_dim": 64, "num_heads": 2}),
    ("naflexvit", "naflexvit_base_patch16_par_gap", 64, {"depth": 3, "embed_dim": 64, "num_heads": 2}),
    ("nest", "nest_tiny_jx", 64, {"img_size": 64}),
    ("nextvit", "nextvit_small", 64, {}),
    ("pit", "pit_ti_224", 64, {"img_size": 64}),
    ("pit", "pit_xs_distilled_224", 64, {"img_size": 64}),
    ("pvt_v2", "pvt_v2_b0", 64, {}),
    ("pvt_v2", "pvt_v2_b2_li", 64, {"embed_dims": (16, 32, 80, 128), "depths": (2, 2, 2, 2)}),
    ("qwen3_vit", "qwen3_vit_88m", 64, {"img_size": 64, "embed_dim": 64, "num_heads": 2, "depth": 3}),
    ("rdnet", "rdnet_tiny", 64, {}),
    ("repvit", "repvit_m0_9", 64, {}),
    (
        "sequencer",
        "sequencer2d_s",
        64,
        {"layers": (2, 2, 2, 2), "embed_dims": (24, 48, 48, 48), "hidden_sizes": (6, 12, 12, 12)},
    ),
    ("shvit", "shvit_s1", 128, {}),
    ("starnet", "starnet_s050", 64, {}),
    ("swiftformer", "swiftformer_xs", 64, {}),
    (
        "swin_transformer",
        "swin_tiny_patch4_window7_224",
        64,
        {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (2, 2, 2, 2)},
    ),
    (
        "swin_transformer_v2",
        "swinv2_tiny_window8_256",
        64,
        {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (2, 2, 2, 2)},
    ),
    (
        "swin_transformer_v2_cr",
        "swinv2_cr_tiny_ns_224",
        64,
        {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (2, 2, 2, 2)},
    ),
    ("tiny_vit", "tiny_vit_5m_224", 64, {}),
    ("tnt", "tnt_s_patch16_224", 64, {"img_size": 64, "depth": 3}),
    ("tnt", "tnt_s_legacy_patch16_224", 64, {"img_size": 64, "depth": 2}),
    ("twins", "twins_pcpvt_small", 64, {"img_size": 64, "depths": (2, 2, 2, 2)}),
    ("twins", "twins_svt_small", 64, {"img_size": 64, "depths": (2, 2, 2, 2)}),
    ("visformer", "visformer_tiny", 64, {"img_size": 64}),
    ("vision_transformer", "test_vit", 64, {"img_size": 64}),
    ("vision_transformer", "test_vit3", 64, {"img_size": 64}),
    ("vision_transformer", "vit_tiny_patch16_224", 64, {"img_size": 64, "depth": 4}),
    (
        "vision_transformer",
        "vit_small_patch14_reg4_dinov2",
        56,
        {"img_size": 56, "depth": 3, "embed_dim": 64, "num_heads": 2},
    ),
    (
        "vision_transformer",
        "vit_giant_patch14_dinov2",
        56,
        {"img_size": 56, "depth": 2, "embed_dim": 96, "num_heads": 3},
    ),
    ("vision_transformer", "vit_base_patch16_siglip_224", 64, _VIT),
    ("vision_transformer", "vit_base_patch16_rpn_224", 64, _VIT),
    ("vision_transformer", "vit_base_patch16_xp_224", 64, _VIT),
    ("vision_transformer", "vit_small_patch16_18x2_224", 64, _VIT),
    (
        "vision_transformer",
        "aimv2_large_patch14_224",
        56,
        {"img_size": 56, "embed_dim": 64, "num_heads": 2, "depth": 2},
    ),
    ("vision_transformer_hybrid", "vit_tiny_r_s16_p8_224", 64, {"img_size": 64, "depth": 3}),
    ("vision_transformer_relpos", "test_vit_relpos", 64, {"img_size": 64}),
    ("vision_transformer_relpos", "vit_srelpos_small_patch16_224", 64, _VIT),
    ("vision_transformer_sam", "samvit_base_patch16", 64, {**_VIT, "global_attn_indexes": (2,), "window_size": 3}),
    ("vitamin", "vitamin_small_224", 64, {"img_size": 64, "depth": 3}),
    ("volo", "volo_d1_224", 64, {"img_size": 64}),
    ("xcit", "xcit_nano_12_p16_224", 64, {"img_size": 64, "depth": 3}),
)

# Pure convolutional networks: no block is expected.
NETWORKS: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
    ("cspnet", "cspdarknet53", 64, {}),
    ("dla", "dla46_c", 64, {}),
    ("dpn", "dpn48b", 64, {}),
    ("efficientnet", "test_efficientnet", 64, {}),
    ("ghostnet", "ghostnetv2_100", 64, {}),
    ("hgnet", "hgnetv2_b0", 64, {}),
    ("lcnetv2", "lcnetv2_small", 64, {}),
    ("mobilenetv3", "mobilenetv4_conv_small_035", 64, {}),
    ("nfnet", "test_nfnet", 64, {}),
    ("regnet", "regnety_002", 64, {}),
    ("repghost", "repghostnet_050", 64, {}),
    ("res2net", "res2net50_14w_8s", 64, {}),
    ("resnest", "resnest14d", 64, {}),
    ("resnet", "ecaresnet26t", 64, {}),
    ("rexnet", "rexnet_100", 64, {}),
    ("senet", "legacy_seresnet18", 64, {}),
    ("sknet", "skresnet18", 64, {}),
    ("tresnet", "tresnet_m", 64, {}),
    ("vovnet", "ese_vovnet19b_slim", 64, {}),
    ("xception_aligned", "xception41", 64, {}),
)


BATCH_AXIS = {"csatv2": 0}
"""Models whose samples see each other: the spatial attention of CSATv2 (timm 1.0.31) has queries and keys of shape
[B, N], so its map is [B, B]. cbsurgeon refuses such a model until the batch axis is stated."""


def _factory(name: str, size: int, options: dict[str, Any]) -> Callable[[], Built]:
    def build() -> Built:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=10, **options), (image(size),), {}

    return build


def entries() -> Iterator[Entry]:
    """One entry per row of :data:`MODELS`, then the negatives."""
    for group, rows in (("timm", MODELS), ("negative", NETWORKS)):
        for family, name, size, options in rows:
            yield Entry(f"timm/{name}", group, family, _factory(name, size, options), BATCH_AXIS.get(name))
