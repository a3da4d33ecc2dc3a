"""Diffusion transformers and U-Nets of diffusers and MONAI."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.packages.listing import model, of


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


TIMES = torch.tensor([1, 2])
LATENT = _noise(2, 4, 8, 8)


@model("diffusers", "DiTTransformer2DModel", LATENT, timestep=TIMES, class_labels=TIMES)
def _dit() -> nn.Module:
    return of("diffusers", "DiTTransformer2DModel")(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=10, norm_num_groups=4,
    )  # fmt: skip


@model(
    "diffusers", "PixArtTransformer2DModel", LATENT, encoder_hidden_states=_noise(2, 6, 20), timestep=TIMES,
    added_cond_kwargs={"resolution": None, "aspect_ratio": None},
)  # fmt: skip
def _pixart() -> nn.Module:
    return of("diffusers", "PixArtTransformer2DModel")(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        patch_size=2, cross_attention_dim=32, caption_channels=20, use_additional_conditions=False, norm_num_groups=1,
    )  # fmt: skip


@model(
    "diffusers", "SD3Transformer2DModel", hidden_states=LATENT, encoder_hidden_states=_noise(2, 7, 32),
    pooled_projections=_noise(2, 64), timestep=TIMES,
)  # fmt: skip
def _sd3() -> nn.Module:
    return of("diffusers", "SD3Transformer2DModel")(
        sample_size=8, patch_size=1, in_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=4,
        caption_projection_dim=32, joint_attention_dim=32, pooled_projection_dim=64, out_channels=4,
        pos_embed_max_size=16,
    )  # fmt: skip


@model(
    "diffusers", "FluxTransformer2DModel", hidden_states=_noise(2, 16, 4), encoder_hidden_states=_noise(2, 7, 32),
    pooled_projections=_noise(2, 32), timestep=torch.tensor([1.0, 2.0]), img_ids=_noise(16, 3), txt_ids=_noise(7, 3),
)  # fmt: skip
def _flux() -> nn.Module:
    return of("diffusers", "FluxTransformer2DModel")(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip


@model(
    "diffusers", "LTXVideoTransformer3DModel", hidden_states=_noise(2, 16, 4), encoder_hidden_states=_noise(2, 7, 32),
    timestep=TIMES, encoder_attention_mask=torch.tensor([[1.0] * 7, [1.0] * 4 + [0.0] * 3]), num_frames=2, height=4,
    width=2,
)  # fmt: skip
def _ltx() -> nn.Module:
    return of("diffusers", "LTXVideoTransformer3DModel")(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32,
        num_layers=2, caption_channels=32,
    )  # fmt: skip


@model("diffusers", "WanTransformer3DModel", _noise(2, 4, 2, 8, 8), TIMES, _noise(2, 7, 16))
def _wan() -> nn.Module:
    return of("diffusers", "WanTransformer3DModel")(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
        freq_dim=256, ffn_dim=32, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )  # fmt: skip


@model("diffusers", "Transformer2DModel", _noise(2, 32, 8, 8), encoder_hidden_states=_noise(2, 5, 16))
def _transformer() -> nn.Module:
    return of("diffusers", "Transformer2DModel")(
        num_attention_heads=2, attention_head_dim=16, in_channels=32, num_layers=2, cross_attention_dim=16,
        norm_num_groups=8,
    )  # fmt: skip


@model("diffusers", "UNet2DConditionModel", _noise(2, 4, 16, 16), TIMES, _noise(2, 5, 16))
def _unet() -> nn.Module:
    return of("diffusers", "UNet2DConditionModel")(
        block_out_channels=(16, 32), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16, attention_head_dim=8,
        norm_num_groups=8,
    )  # fmt: skip


@model("monai", "DiffusionModelUNet", _noise(2, 1, 16, 16), TIMES, _noise(2, 3, 16), mlps=("MLPBlock",))
def _monai() -> nn.Module:
    return of("monai.networks.nets", "DiffusionModelUNet")(
        2, 1, 1, num_res_blocks=(1, 1), channels=(16, 32), attention_levels=(False, True), norm_num_groups=8,
        num_head_channels=8, with_conditioning=True, cross_attention_dim=16,
    )  # fmt: skip
