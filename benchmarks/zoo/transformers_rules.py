"""Where transformers' classes keep their MLPs, and which of them are not blocks.

The library uses about twenty pairs of attribute names for feed-forwards, on classes whose names have certain endings.
Rules with a reason come first, and gated forms before plain ones: a module that matches one rule is not tested with the
next rules.
"""

from __future__ import annotations

from benchmarks.zoo.rules import Remark, Rule, Veto

_WAYS: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (("MLP", "FFN"), ("gate_proj", "up_proj"), "down_proj"),
    (("MLP",), ("gate_up_proj",), "down_proj"),
    (("MLP",), ("up_proj",), "down_proj"),
    (("MLP", "Mlp", "EncoderLayer", "DecoderLayer"), ("fc1",), "fc2"),
    (("MLP",), ("c_fc",), "c_proj"),
    (("MLP",), ("fc_in",), "fc_out"),
    (("MLP",), ("dense_h_to_4h",), "dense_4h_to_h"),
    (("MLP", "FFN"), ("dense1",), "dense2"),
    (("MLP",), ("Wi",), "Wo"),
    (("MLPBlock", "FFN"), ("lin1",), "lin2"),
    (("FFN",), ("linear_1",), "linear_2"),
    (("FFN",), ("conv1.convolution",), "conv2.convolution"),
    (("FeedForward",), ("intermediate_dense",), "output_dense"),
    (("FeedForward",), ("intermediate",), "output"),
    (("FeedForward",), ("layer_1",), "layer_2"),
    (("DenseGatedActDense",), ("wi_0", "wi_1"), "wo"),
    (("DenseActDense",), ("wi",), "wo"),
    (("Layer", "Block"), ("intermediate.dense",), "output.dense"),
    (("Layer",), ("intermediate_query.dense",), "output_query.dense"),
)

_WITH_DEPTHWISE = "feed-forward with a depthwise convolution inside, after the attention branch"
_OWN_MIXER = "one branch with its own spatial convolution, no separate token mixer before it (inverted bottleneck)"
_ONE_TOKEN = "attention pooling to one token"

RULES: tuple[Rule, ...] = (
    Rule(
        "transformers.models.albert.modeling_albert.AlbertLayer",
        ("ffn",),
        ("ffn_output",),
        why="one layer for all depths: one block with as many calls",
    ),
    Rule(
        "transformers.models.bridgetower.modeling_bridgetower.BridgeTowerResidualAttention",
        ("mlp.c_fc",),
        ("mlp.c_proj",),
    ),
    Rule("transformers.models.ctrl.modeling_ctrl.EncoderLayer", ("ffn.0",), ("ffn.2",)),
    Rule("transformers.models.glpn.modeling_glpn.GLPNMixFFN", ("dense1",), ("dense2",), why=_WITH_DEPTHWISE),
    Rule("transformers.models.levit.modeling_levit.LevitMLPLayer", ("linear_up.linear",), ("linear_down.linear",)),
    Rule(
        "transformers.models.lilt.modeling_lilt.LiltLayer",
        ("layout_intermediate.dense",),
        ("layout_output.dense",),
        why="two streams, text and layout, each with its own MLP",
    ),
    Rule(
        "transformers.models.lxmert.modeling_lxmert.LxmertXLayer",
        ("lang_inter.dense",),
        ("lang_output.dense",),
        why="two streams, language and vision, each with its own MLP",
    ),
    Rule("transformers.models.lxmert.modeling_lxmert.LxmertXLayer", ("visn_inter.dense",), ("visn_output.dense",)),
    Rule(
        "transformers.models.patchtst.modeling_patchtst.PatchTSTEncoderLayer",
        ("ff.0",),
        ("ff.3",),
        why="variables and patches are both token axes",
    ),
    Rule("transformers.models.poolformer.modeling_poolformer.PoolFormerOutput", ("conv1",), ("conv2",)),
    Rule(
        "transformers.models.pvt_v2.modeling_pvt_v2.PvtV2ConvFeedForwardNetwork",
        ("dense1",),
        ("dense2",),
        why=_WITH_DEPTHWISE,
    ),
    Rule("transformers.models.segformer.modeling_segformer.SegformerMixMLP", ("fc1",), ("fc2",), why=_WITH_DEPTHWISE),
    Rule(
        "transformers.models.squeezebert.modeling_squeezebert.SqueezeBertModule",
        ("intermediate.conv1d",),
        ("output.conv1d",),
        why="projections are grouped 1x1 convolutions over the sequence",
    ),
    *(Rule(f"transformers.models.*{suffix}", first, (last,)) for suffixes, first, last in _WAYS for suffix in suffixes),
)

VETOES: tuple[Veto, ...] = (
    Veto("transformers.models.siglip*MultiheadAttentionPoolingHead", "mlp", _ONE_TOKEN),
    Veto(
        "transformers.models.perceiver.modeling_perceiver.PerceiverClassificationDecoder",
        "decoder",
        "the decoder has one query, the class: one token",
    ),
    Veto(
        "transformers.models.groupvit.modeling_groupvit.GroupViTMixerMLP",
        "",
        "token-mixing MLP between token sets of different size, without a residual",
    ),
    Veto(
        "transformers.models.patchtsmixer.modeling_patchtsmixer.PatchMixerBlock",
        "mlp",
        "token-mixing MLP: contracts the patch axis",
    ),
)

REMARKS: tuple[Remark, ...] = (
    Remark("transformers.models.convnextv2.modeling_convnextv2.ConvNextV2Layer", _OWN_MIXER),
    Remark(
        "transformers.models.focalnet.modeling_focalnet.FocalNetModulation",
        "a token mixer that gates, between its two projections",
    ),
    Remark("transformers.models.mobilevit*InvertedResidual", _OWN_MIXER),
    Remark("transformers.models.swiftformer.modeling_swiftformer.SwiftFormerConvEncoder", _OWN_MIXER),
    Remark("transformers.models.swiftformer.modeling_swiftformer.SwiftFormerLocalRepresentation", _OWN_MIXER),
    Remark(
        "transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer.Wav2Vec2ConformerConvolutionModule",
        "the block's second token mixer, between attention and the closing feed-forward: not a feed-forward",
    ),
    Remark(
        "transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer.Wav2Vec2ConformerEncoderLayer",
        "two half-step feed-forwards, before attention and after the convolution module",
    ),
    Remark(
        "transformers.models.mobilebert.modeling_mobilebert.MobileBertLayer",
        "several feed-forwards on the inner, narrower stream; the bottleneck around them holds the attention too",
    ),
    Remark("transformers.models.*MLPPredictionHead", "detection head: no residual"),
    Remark(
        "transformers.models.groupvit.modeling_groupvit.GroupViTTokenAssign",
        "cross-attention MLP and channel MLP on the group tokens are blocks",
    ),
    Remark("transformers.models.xlnet.modeling_xlnet.XLNetLayer", "sequence first: the batch is axis 1"),
)
