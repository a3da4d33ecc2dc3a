"""Where timm's and torchvision's classes keep their MLPs, and which of them are not blocks."""

from __future__ import annotations

from typing import Any

from benchmarks.zoo.rules import Remark, Rule, Veto, Where, matches

_OWN_MIXER = "one branch with its own spatial convolution, no separate token mixer before it (inverted bottleneck)"
_ONE_TOKEN = "runs on the class token alone: one token, where the mean changes nothing"
_POSITION = "maps relative positions to biases: no batch, no tokens"
_POOLED = "works on a pooled token and gates the tensor it was pooled from"


def _has_mixer(where: Where) -> bool:
    return getattr(where.module, "token_mixer", None) is not None


def _visformer(where: Where) -> bool:
    block: Any = where.module
    return block.attn is not None or not block.mlp.spatial_conv


def _feed_forward(where: Where) -> bool:
    """A universal inverted residual with a skip that has no depthwise convolution, or follows an attention branch."""
    block: Any = where.module
    if not block.has_skip:
        return False
    plain = not any(hasattr(getattr(block, name), "conv") for name in ("dw_start", "dw_mid", "dw_end"))
    return plain or (where.previous is not None and matches(where.previous, "timm.*MobileAttention"))


def _one_latent(where: Where) -> bool:
    return getattr(where.module, "latent_len", 0) == 1


def _separate_output(where: Where) -> bool:
    return getattr(where.module, "mlp_out_proj", None) is not None


RULES: tuple[Rule, ...] = (
    Rule("timm.layers.mlp.Mlp", ("fc1",), ("fc2",)),
    Rule("timm.layers.mlp.GluMlp", ("fc1",), ("fc2",)),
    Rule("timm.layers.mlp.SwiGLU", ("fc1_g", "fc1_x"), ("fc2",)),
    Rule(
        "timm.layers.mlp.GatedMlp",
        ("fc1",),
        ("fc2",),
        why="gMLP: the channel MLP of a block, with the spatial gate inside",
    ),
    Rule("timm.layers.mlp.ConvMlp", ("fc1",), ("fc2",)),
    Rule("timm.layers.mlp.GlobalResponseNormMlp", ("fc1",), ("fc2",)),
    Rule(
        "timm.models.cpubone.CPUBoneBlock",
        ("total.0.1.main.1",),
        ("total.0.1.main.3",),
        why="MLP branch after the attention branch; the local convolution branch that follows it is a bottleneck",
    ),
    Rule("timm.models.efficientformer.ConvMlpWithNorm", ("fc1",), ("fc2",)),
    Rule(
        "timm.models.efficientformer_v2.EfficientFormerV2Block",
        ("mlp.fc1.conv",),
        ("mlp.fc2.conv",),
        when=_has_mixer,
        why="feed-forward with a depthwise convolution after the block's attention branch",
        refused=_OWN_MIXER,
    ),
    Rule(
        "timm.models.efficientvim.FFN",
        ("fc1.conv",),
        ("fc2.conv",),
        why="x + a(f(x) - x): a gated residual branch around the feed-forward",
    ),
    Rule(
        "timm.models.efficientvit_mit.EfficientVitBlock",
        ("local_module.main.inverted_conv.conv",),
        ("local_module.main.point_conv.conv",),
        why="MBConv as the feed-forward of a block, after its linear-attention branch",
    ),
    Rule("timm.models.efficientvit_msra.ConvMlp", ("pw1.conv",), ("pw2.conv",)),
    Rule(
        "timm.models.fastvit.ConvMlp",
        ("fc1",),
        ("fc2",),
        why="feed-forward with a depthwise convolution in front, after a RepMixer or attention branch",
    ),
    Rule("timm.models.gemma4_vit.Gemma4GatedMlp", ("gate_proj.linear", "up_proj.linear"), ("down_proj.linear",)),
    Rule("timm.models.iformer.FFN", ("mixer.module.0.c",), ("mixer.module.2.c",)),
    Rule("timm.models.levit.LevitMlp", ("ln1.linear",), ("ln2.linear",)),
    Rule(
        "timm.models.lowformer.LowFormerBlock",
        ("mlp.main.1",),
        ("mlp.main.3",),
        why="MLP branch after the attention branch; the local convolution branch that follows it is a bottleneck",
    ),
    Rule(
        "timm.models._efficientnet_blocks.UniversalInvertedResidual",
        ("pw_exp.conv",),
        ("pw_proj.conv",),
        when=_feed_forward,
        why="no depthwise convolution inside, or the feed-forward after an attention branch",
        refused=f"{_OWN_MIXER}, or without a residual",
    ),
    Rule(
        "timm.models.pvt_v2.MlpWithDepthwiseConv",
        ("fc1",),
        ("fc2",),
        why="feed-forward with a depthwise convolution inside, after the attention branch",
    ),
    Rule(
        "timm.models.repvit.RepViTBlock",
        ("channel_mixer.conv1.c",),
        ("channel_mixer.conv2.c",),
        why="1x1 convolutions after the depthwise token mixer",
    ),
    Rule(
        "timm.models.repvit.RepVitDownsample", ("ffn.conv1.c",), ("ffn.conv2.c",), why="feed-forward of a downsampler"
    ),
    Rule("timm.models.shvit.FFN", ("pw1.c",), ("pw2.c",)),
    Rule("timm.models.swiftformer.Mlp", ("fc1",), ("fc2",)),
    Rule("timm.models.tiny_vit.NormMlp", ("fc1",), ("fc2",)),
    Rule(
        "timm.models.visformer.Block",
        ("mlp.conv1",),
        ("mlp.conv3",),
        when=_visformer,
        refused=f"stage without attention: {_OWN_MIXER}",
    ),
    Rule("timm.models.vitamin.GeGluMlp", ("w0", "w1"), ("w2",)),
    Rule(
        "timm.models.vision_transformer.*ParallelScalingBlock",
        ("in_proj",),
        ("mlp_out_proj",),
        when=_separate_output,
        why="attention and MLP in parallel on one norm; the input projection is shared with the attention",
        refused="attention and MLP share their last projection: it is not the MLP's own",
    ),
    Rule("torchvision.models.vision_transformer.MLPBlock", ("0",), ("3",)),
    Rule("torchvision.ops.misc.MLP", ("0",), ("3",)),
    Rule("torchvision.models.maxvit.PartitionAttentionLayer", ("mlp_layer.1",), ("mlp_layer.3",)),
)

VETOES: tuple[Veto, ...] = (
    Veto("timm.models.cait.LayerScaleBlockClassAttn", "mlp", _ONE_TOKEN),
    Veto("timm.models.xcit.ClassAttentionBlock", "mlp", _ONE_TOKEN),
    Veto("timm.models.volo.ClassBlock", "mlp", _ONE_TOKEN),
    Veto(
        "timm.layers.attention_pool.AttentionPoolLatent",
        "mlp",
        "attention pooling to one token",
        when=_one_latent,
    ),
    Veto("timm.models.mlp_mixer.MixerBlock", "mlp_tokens", "token-mixing MLP: contracts the token axis"),
    Veto("timm.models.swin_transformer_v2_cr.WindowMultiHeadAttention", "meta_mlp", _POSITION),
    Veto("timm.layers.pos_embed_rel.RelPosMlp", "mlp", _POSITION),
    Veto("timm.models.convnext.ConvNeXtBlock", "mlp", _OWN_MIXER),
    Veto("timm.models.maxxvit.ConvNeXtBlock", "mlp", _OWN_MIXER),
    Veto("timm.models.edgenext.ConvBlock", "mlp", _OWN_MIXER),
    Veto(
        "timm.models.csatv2.SpatialTransformerBlock",
        "mlp",
        "a gate's map of one channel: its layer norm leaves the same bias for all tokens, so the mean changes nothing",
    ),
    Veto("timm.layers.global_context.GlobalContext", "", _POOLED),
    Veto("timm.layers.gather_excite.GatherExcite", "", _POOLED),
    Veto("torchvision.models.swin_transformer.ShiftedWindowAttentionV2", "cpb_mlp", _POSITION),
)

REMARKS: tuple[Remark, ...] = (
    Remark("timm.models.coat.ParallelBlock", "one MLP called for three resolutions: one block with three calls"),
    Remark("timm.models.convmixer.Residual", "only the depthwise convolution has a residual, the 1x1 has none"),
    Remark("timm.models.csatv2.Block", _OWN_MIXER),
    Remark(
        "timm.models.efficientvit_mit.MBConv", "inverted bottleneck; a feed-forward only behind an attention branch"
    ),
    Remark(
        "timm.models.edgenext.SplitTransposeBlock",
        "the MLP follows a cross-covariance attention with its own residual; the outer skip starts before both",
    ),
    Remark("timm.models.fasternet.MLPBlock", f"partial convolution and MLP in {_OWN_MIXER}"),
    Remark("timm.models.focalnet.FocalModulation", "a token mixer that gates, between its two 1x1 projections"),
    Remark("timm.models.inception_next.MetaNeXtBlock", _OWN_MIXER),
    Remark("timm.models.iformer.ConvBlock", _OWN_MIXER),
    Remark("timm.models.mambaout.GatedConvBlock", f"gated convolution: {_OWN_MIXER}"),
    Remark("timm.models.metaformer.SepConv", "the token mixer itself, built as an inverted bottleneck"),
    Remark("timm.models.maxxvit.MbConvBlock", _OWN_MIXER),
    Remark("timm.models.tiny_vit.MBConv", _OWN_MIXER),
    Remark("timm.models.vitamin.MbConvLNBlock", _OWN_MIXER),
    Remark("timm.models.mlp_mixer.ResBlock", "the token mixer is a single projection over tokens"),
    Remark(
        "timm.models.mobilevit.MobileVitBlock", "pixels of a patch are folded into the batch, patches are the tokens"
    ),
    Remark("timm.models.rdnet.DenseBlock", "features are concatenated: no residual"),
    Remark("timm.models.starnet.Block", f"gated product of projections: {_OWN_MIXER}"),
    Remark("timm.models.swiftformer.ConvEncoder", _OWN_MIXER),
    Remark("timm.models.swiftformer.LocalRepresentation", _OWN_MIXER),
    Remark("timm.models.tnt.Block", "two streams: pixels inside a patch (patches folded into the batch), and patches"),
    Remark("timm.models.xcit.LPI", "local patch interaction: two depthwise convolutions, no channel projection"),
    Remark("timm.models.qwen3_vit.Qwen3VitPatchMerger", "projector without a residual"),
    Remark("timm.models.deepseek_vit.DeepseekVitAligner", "projector without a residual"),
    Remark("timm.models.mobilenetv5.MobileNetV5MultiScaleFusionAdapter", "feed-forward without a residual"),
)
