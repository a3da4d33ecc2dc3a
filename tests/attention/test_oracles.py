"""Attention maps equal those of transformers and timm for the same weights and inputs.

transformers returns its maps with ``output_attentions=True`` in its eager form; the model is captured in its default
form, which is fused attention where it has that. timm's ``AttentionExtract`` hooks the modules behind the softmax.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.analysis import attention_maps

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.zoo import entry

pytest.importorskip("transformers", reason="the oracle is transformers")
pytest.importorskip("timm", reason="the oracle is timm")

ROUNDING = 1e-5
"""Between two ways to compute a softmax in float32, after a few layers."""

QUICK = ("vit", "bert", "xlnet", "t5", "perceiver")
"""Fused, padded, einsum, cross-attention without scale, learned queries."""

SWEEP = """
    deit beit dinov2 dinov2_with_registers dinov3_vit ijepa vit_msn vitdet pvt segformer glpn dpt detr
    table_transformer conditional_detr yolos vitpose videomae vivit wav2vec2 hubert wav2vec2_conformer sew_d
    whisper speech_to_text audio_spectrogram_transformer roberta albert electra distilbert mpnet big_bird funnel
    convbert nystromformer roformer esm modernbert xlm layoutlmv3 gpt2 gpt_neox gptj bloom mpt opt llama mistral
    qwen3 gemma3 phi3 cohere bart marian m2m_100 umt5 deberta_v2 longt5
""".split()
"""Architectures of which transformers gives every map; it leaves some out in the others of the zoo."""


def given(output: Any) -> list[Tensor]:
    """Every map that a transformers model returns."""
    groups = [value for name, value in output.items() if "attentions" in name and value is not None]
    return [one for group in groups for one in (group if isinstance(group, list | tuple) else [group])]


def distance(got: Tensor, want: Tensor) -> float:
    """The largest difference, where the two maps have the same form."""
    if got.numel() != want.numel() or got.shape[-2:] != want.shape[-2:]:
        return float("inf")
    # With windows on an axis of their own, Hiera and NesT have the heads before them and Twins behind.
    forms = [want, want.transpose(1, 2)] if want.dim() == 5 else [want]
    return min((got.reshape(-1) - form.reshape(-1)).abs().max().item() for form in forms)


def compare(found: list[Tensor], expected: list[Tensor]) -> None:
    """Each expected map is found once, and there is no other."""
    assert expected and len(found) == len(expected)
    for want in expected:
        near = min(range(len(found)), key=lambda place: distance(found[place], want))
        assert distance(found[near], want) < ROUNDING
        found.pop(near)


def check_transformers(name: str) -> None:
    module, args, kwargs = entry(f"transformers/{name}").build()
    if "attention_mask" not in kwargs and name == "bert":
        kwargs["attention_mask"] = torch.ones_like(kwargs["input_ids"])
        kwargs["attention_mask"][1, -5:] = 0
    found = [one for _, one in attention_maps(cbs.Model(module, args, example_kwargs=kwargs), kwargs or args)]
    module.set_attn_implementation("eager")
    with torch.no_grad():
        compare(found, given(module(*args, **kwargs, output_attentions=True)))


@pytest.mark.parametrize("name", QUICK)
def test_maps_are_those_of_transformers(name: str) -> None:
    check_transformers(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEP)
def test_maps_are_those_of_transformers_in_every_architecture(name: str) -> None:
    check_transformers(name)


SMALL = {"img_size": 64, "depth": 2}
TIMM: dict[str, dict[str, Any]] = {
    "deit_tiny_distilled_patch16_224": SMALL,
    "cait_xxs24_224": {**SMALL, "depth_token_only": 1},
    "swin_tiny_patch4_window7_224": {"img_size": 56, "depths": (2, 2), "num_heads": (3, 6), "strict_img_size": False},
    "gcvit_xxtiny": {"img_size": 64},  # its queries are repeated for every window
}
FULL = """
    vit_tiny_patch16_224 swinv2_tiny_window8_256 crossvit_tiny_240 pvt_v2_b0 eva02_tiny_patch14_224 coatnet_pico_rw_224
    maxvit_rmlp_pico_rw_256 pit_ti_224 twins_svt_small nest_tiny_jx visformer_tiny gcvit_xxtiny mobilevit_xxs
    beit_base_patch16_224
""".split()


def check_timm(name: str, options: dict[str, Any]) -> None:
    import timm
    from timm.utils import AttentionExtract

    module: nn.Module = timm.create_model(name, **options).eval()
    size = options.get("img_size") or module.default_cfg["input_size"][-1]
    image = torch.randn(2, 3, size, size)
    # timm's hooks stand behind the mixing of heads.
    found = [one for _, one in attention_maps(cbs.Model(module, (image,)), image, mixed=True)]
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False
    with torch.no_grad():
        compare(found, list(AttentionExtract(module, method="hook")(image).values()))


@pytest.mark.parametrize("name", TIMM)
def test_maps_are_those_of_timm(name: str) -> None:
    check_timm(name, TIMM[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_maps_are_those_of_timm_in_every_family(name: str) -> None:
    check_timm(name, {})
