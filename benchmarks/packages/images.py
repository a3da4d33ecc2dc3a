"""Packages of vision transformers, mixers and segmentation networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.packages.listing import model, of

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
VIDEO = torch.randn(2, 3, 4, 64, 64, generator=torch.Generator().manual_seed(0))
VOLUME = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
LINE = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0))

PLAIN: dict[str, Any] = {"image_size": 64, "patch_size": 16, "num_classes": 10, "dim": 64, "depth": 2, "heads": 4}
SMALL: dict[str, Any] = {**PLAIN, "mlp_dim": 128}
FILM: dict[str, Any] = {
    "image_size": 64, "image_patch_size": 16, "frames": 4, "frame_patch_size": 2, "num_classes": 10, "dim": 64,
    "heads": 4, "mlp_dim": 128,
}  # fmt: skip


def _plain(module: str, name: str, **options: Any) -> None:
    """Add a model of vit-pytorch with the usual arguments."""

    def make() -> nn.Module:
        built: nn.Module = of(f"vit_pytorch.{module}", name)(**{**SMALL, **options})
        return built

    model("vit-pytorch", module, IMAGE)(make)


for _module, _name in (
    ("vit", "ViT"), ("simple_vit", "SimpleViT"), ("deepvit", "DeepViT"), ("jet_vit", "JetViT"),
    ("learnable_memory_vit", "ViT"), ("parallel_vit", "ViT"), ("rvt", "RvT"), ("normalized_vit", "nViT"),
    ("simple_flash_attn_vit", "SimpleViT"), ("simple_vit_with_patch_dropout", "SimpleViT"),
    ("simple_vit_with_qk_norm", "SimpleViT"), ("simple_vit_with_register_tokens", "SimpleViT"),
    ("simple_vit_orthog_residual_update", "SimpleViT"), ("vit_with_keel_post_ln", "ViT"), ("vit_5", "ViT"),
    ("vit_for_small_dataset", "ViT"), ("vit_with_patch_dropout", "ViT"), ("vit_with_patch_merger", "ViT"),
    ("mp3", "ViT"),
):  # fmt: skip
    _plain(_module, _name)
_plain("simple_vit_with_hyper_connections", "SimpleViT", num_residual_streams=2)
_plain("cait", "CaiT", cls_depth=1)
_plain("simple_vit_with_fft", "SimpleViT", freq_patch_size=16)
_plain("xcit", "XCiT", cls_depth=1)


@model("vit-pytorch", "simple_vit_1d", LINE)
def _line() -> nn.Module:
    return of("vit_pytorch.simple_vit_1d", "SimpleViT")(
        seq_len=64, patch_size=16, num_classes=10, dim=64, depth=2, heads=4, mlp_dim=128
    )


@model("vit-pytorch", "vit_3d", VIDEO)
def _film() -> nn.Module:
    return of("vit_pytorch.vit_3d", "ViT")(**FILM, depth=2)


@model("vit-pytorch", "vivit", VIDEO)
def _vivit() -> nn.Module:
    return of("vit_pytorch.vivit", "ViViT")(**FILM, spatial_depth=2, temporal_depth=2)


@model("vit-pytorch", "cross_vit", IMAGE)
def _cross_vit() -> nn.Module:
    return of("vit_pytorch.cross_vit", "CrossViT")(
        image_size=64, num_classes=10, sm_dim=32, lg_dim=64, sm_patch_size=8, lg_patch_size=16, depth=2,
        sm_enc_depth=2, lg_enc_depth=2, sm_enc_mlp_dim=64, lg_enc_mlp_dim=128,
    )  # fmt: skip


@model("vit-pytorch", "cvt", IMAGE, channels_first=True)
def _cvt() -> nn.Module:
    return of("vit_pytorch.cvt", "CvT")(num_classes=10, s1_emb_dim=32, s2_emb_dim=64, s3_emb_dim=96, s3_depth=2)


@model("vit-pytorch", "levit", torch.randn(2, 3, 128, 128), channels_first=True)
def _levit() -> nn.Module:
    return of("vit_pytorch.levit", "LeViT")(
        image_size=128, num_classes=10, stages=3, dim=(32, 48, 64), depth=2, heads=(2, 3, 4), mlp_mult=2
    )


@model("vit-pytorch", "max_vit", IMAGE)
def _max_vit() -> nn.Module:
    return of("vit_pytorch.max_vit", "MaxViT")(num_classes=10, dim=32, depth=(1, 1), window_size=4)


@model("vit-pytorch", "nest", IMAGE, channels_first=True)
def _nest() -> nn.Module:
    return of("vit_pytorch.nest", "NesT")(
        image_size=64, patch_size=4, num_classes=10, dim=32, heads=2, num_hierarchies=3, block_repeats=(1, 1, 2)
    )


@model("vit-pytorch", "scalable_vit", IMAGE, channels_first=True)
def _scalable_vit() -> nn.Module:
    return of("vit_pytorch.scalable_vit", "ScalableViT")(
        num_classes=10, dim=32, heads=(1, 2, 2, 2), depth=(1, 1, 2, 1), ssa_dim_key=(8, 8, 8, 8),
        reduction_factor=(8, 4, 2, 1), window_size=(4, 4, None, None),
    )  # fmt: skip


@model("vit-pytorch", "t2t", IMAGE)
def _t2t() -> nn.Module:
    return of("vit_pytorch.t2t", "T2TViT")(image_size=64, num_classes=10, dim=64, depth=2, heads=4, mlp_dim=128)


@model("vit-pytorch", "twins_svt", IMAGE, channels_first=True)
def _twins() -> nn.Module:
    sizes = {f"s{stage}_emb_dim": size for stage, size in ((1, 32), (2, 32), (3, 48), (4, 48))}
    for stage in (1, 2, 3, 4):
        sizes |= {f"s{stage}_{what}": 2 if stage == 4 else 4 for what in ("local_patch_size", "global_k")}
    return of("vit_pytorch.twins_svt", "TwinsSVT")(num_classes=10, **sizes, s3_depth=1, s4_depth=1)


@model("monai", "ViT", VOLUME, mlps=("MLPBlock",))
def _monai_vit() -> nn.Module:
    return of("monai.networks.nets", "ViT")(
        1, (16, 16, 16), (8, 8, 8), hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4, classification=True
    )


@model("monai", "UNETR", torch.randn(1, 1, 32, 32, 32), mlps=("MLPBlock",))
def _unetr() -> nn.Module:
    return of("monai.networks.nets", "UNETR")(
        1, 2, (32, 32, 32), feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4
    )


@model("monai", "ViTAutoEnc", torch.randn(2, 1, 32, 32), mlps=("MLPBlock",))
def _autoencoder() -> nn.Module:
    return of("monai.networks.nets", "ViTAutoEnc")(
        1, (32, 32), (16, 16), hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4, spatial_dims=2
    )


@model("segmentation-models-pytorch", "Unet-mit_b0", IMAGE, mlps=("Mlp",))
def _unet() -> nn.Module:
    return of("segmentation_models_pytorch", "Unet")("mit_b0", encoder_weights=None, classes=3)


@model("segment-anything", "ImageEncoderViT", IMAGE, mlps=("MLPBlock",))
def _sam() -> nn.Module:
    return of("segment_anything.modeling.image_encoder", "ImageEncoderViT")(
        img_size=64, patch_size=8, embed_dim=32, depth=2, num_heads=2, out_chans=16, window_size=4,
        global_attn_indexes=(1,), use_rel_pos=True,
    )  # fmt: skip


@model("dinov2", "DinoVisionTransformer", torch.randn(2, 3, 56, 56), mlps=("Mlp",))
def _dinov2() -> nn.Module:
    return of("dinov2.models.vision_transformer", "DinoVisionTransformer")(
        img_size=56, patch_size=14, embed_dim=32, depth=2, num_heads=2
    )


@model("timesformer-pytorch", "TimeSformer", VIDEO.transpose(1, 2))
def _timesformer() -> nn.Module:
    return of("timesformer_pytorch", "TimeSformer")(
        dim=32, image_size=64, patch_size=16, num_frames=4, num_classes=10, depth=2, heads=2, dim_head=16
    )
