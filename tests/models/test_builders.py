"""Every kind of builder: it runs on its own example inputs, and gives the same weights again."""

from __future__ import annotations

import random
from typing import Any

import numpy
import pytest
import torch

from cbsurgeon.errors import MissingPackage, UsageError
from cbsurgeon.models import Model, build
from cbsurgeon.models.builders import skeleton

SMALL_TIMM = {"depth": 1, "img_size": 64}
SMALL_HF = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SMALL_SPEECH = {**SMALL_HF, "conv_dim": [8] * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
SMALL_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 50}
SMALL_WHISPER = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_source_positions": 50,
}
SMALL_VIDEO = {**SMALL_HF, "image_size": 32, "num_frames": 4}
SMALL_CLIP = {"vision_config": {**SMALL_HF, "image_size": 32, "patch_size": 16}, "text_config": SMALL_HF}
FACTORIES = "mod:tests.models.factories"

CASES: list[tuple[str, dict[str, Any], dict[str | int, tuple[int, ...]]]] = [
    ("timm:vit_tiny_patch16_224", SMALL_TIMM, {0: (2, 3, 64, 64)}),
    ("timm:vit_tiny_patch16_224", {**SMALL_TIMM, "in_chans": 1, "img_size": [64, 32]}, {0: (2, 1, 64, 32)}),
    ("timm:resnet10t", {}, {0: (2, 3, 176, 176)}),
    ("torchvision:squeezenet1_1", {"num_classes": 5}, {0: (2, 3, 224, 224)}),
    ("torchvision:vit_b_16", {"image_size": 32, "num_classes": 2}, {0: (2, 3, 32, 32)}),
    ("hf:ViTForImageClassification", {**SMALL_HF, "image_size": 32}, {0: (2, 3, 32, 32)}),
    ("hf:BertModel", {**SMALL_HF, "vocab_size": 99}, {"input_ids": (2, 16), "attention_mask": (2, 16)}),
    ("hf:T5Model", SMALL_T5, {"input_ids": (2, 16), "attention_mask": (2, 16), "decoder_input_ids": (2, 16)}),
    (
        "hf:ViltModel",
        {**SMALL_HF, "image_size": 64, "vocab_size": 99},
        {"input_ids": (2, 16), "attention_mask": (2, 16), "pixel_values": (2, 3, 64, 64)},
    ),
    (
        "hf:CLIPModel",
        SMALL_CLIP,
        {"input_ids": (2, 16), "pixel_values": (2, 3, 32, 32), "attention_mask": (2, 16)},
    ),
    ("hf:Wav2Vec2Model", SMALL_SPEECH, {0: (2, 16000)}),
    ("hf:ASTModel", {**SMALL_HF, "max_length": 64, "num_mel_bins": 32}, {0: (2, 64, 32)}),
    ("hf:WhisperModel", SMALL_WHISPER, {"input_features": (2, 80, 100), "decoder_input_ids": (2, 16)}),
    ("hf:VideoMAEModel", SMALL_VIDEO, {0: (2, 4, 3, 32, 32)}),
    (f"{FACTORIES}:with_tensor", {}, {0: (2, 3)}),
    (f"{FACTORIES}:with_tuple", {}, {0: (2, 3), 1: (2, 2)}),
    (f"{FACTORIES}:with_keywords", {}, {"x": (2, 3), "shift": (2, 2)}),
    (f"{FACTORIES}:complete", {}, {0: (2, 3)}),
    (f"{FACTORIES}:small_vit", {"num_labels": 4}, {0: (2, 3, 32, 32)}),
]


@pytest.mark.parametrize(("reference", "options", "shapes"), CASES, ids=[f"{case[0]}-{len(case[1])}" for case in CASES])
def test_a_built_model_runs_on_its_own_inputs(
    reference: str, options: dict[str, Any], shapes: dict[str | int, tuple[int, ...]]
) -> None:
    before = torch.get_rng_state(), numpy.random.get_state()[1].tolist(), random.getstate()
    model = build(reference, options=options)
    again = build(reference, options=options)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == numpy.random.get_state()[1].tolist()
    assert before[2] == random.getstate()
    found: dict[str | int, tuple[int, ...]] = {at: tuple(x.shape) for at, x in enumerate(model.example_inputs)}
    found |= {name: tuple(x.shape) for name, x in model.example_kwargs.items()}
    assert found == shapes
    assert model.module is not None
    assert again.module is not None
    assert not any(part.training for part in model.module.modules())
    with torch.no_grad():
        model.module(*model.example_inputs, **model.example_kwargs)
    state, other = model.module.state_dict(), again.module.state_dict()
    assert list(state) == list(other)
    # NaN is no answer of an initialisation: torch.equal then means the bits agree.
    assert all(torch.equal(state[key], other[key]) for key in state)
    assert model.provenance.architecture == reference
    assert dict(model.provenance.architecture_options) == options


def test_weights_do_not_depend_on_what_ran_before() -> None:
    torch.manual_seed(7)
    one = build("timm:vit_tiny_patch16_224", options=SMALL_TIMM)
    torch.manual_seed(8)
    torch.rand(5)
    other = build("timm:vit_tiny_patch16_224", options=SMALL_TIMM)
    assert one.module is not None
    assert other.module is not None
    assert torch.equal(one.module.head.weight, other.module.head.weight)
    assert torch.equal(one.example_inputs[0], other.example_inputs[0])


def test_key_value_caches_are_off() -> None:
    model = build("hf:T5Model", options=SMALL_T5)
    assert model.module is not None
    assert model.module.config.use_cache is False


def test_the_batch_is_the_callers() -> None:
    assert build("timm:vit_tiny_patch16_224", options=SMALL_TIMM, batch=3).example_inputs[0].shape[0] == 3
    with pytest.raises(UsageError, match="CB-INPUT-01"):
        build("timm:vit_tiny_patch16_224", options=SMALL_TIMM, batch=0)


def test_input_shape_rebuilds_an_architecture_of_fixed_size() -> None:
    model = build("timm:vit_tiny_patch16_224", options={"depth": 1}, input="1x32x64")
    assert model.module is not None
    assert model.provenance.architecture_options == {"depth": 1, "img_size": [32, 64], "in_chans": 1}
    assert model.module(*model.example_inputs).shape == (2, 1000)


@pytest.mark.parametrize(
    ("reference", "options", "code"),
    [
        ("timm:vit_tiny_patch16_224", {"no_such_option": 1}, "CB-REF-03"),
        ("hf:ViTModel", {"hidden_act": "no_such_activation"}, "CB-REF-03"),
        ("timm:vit_tiny_patch16_224", {"pretrained": True}, "CB-REF-05"),
        ("timm:vit_tiny_patch16_224", {"checkpoint_path": "x.pt"}, "CB-REF-05"),
        ("torchvision:vit_b_16", {"weights": "DEFAULT"}, "CB-REF-05"),
        ("hf:ViTModel", {"auto_map": {"AutoModel": "evil.Model"}}, "CB-REF-05"),
        ("hf:ViTModel", {"attn_implementation": "someone/kernel"}, "CB-REF-05"),
        ("hf:ViTModel", {"text_config": {"_name_or_path": "someone/model"}}, "CB-REF-05"),
        ("timm:vit_tiny_patch16_224", {"norm_layer": torch.nn.LayerNorm}, "CB-REF-05"),
        ("timm:vit_tiny_patch16_224", {"drop_rate": float("nan")}, "CB-REF-05"),
        ("mod:tests.models.factories", {}, "CB-REF-04"),
        ("mod:tests.models.no_such_module:f", {}, "CB-REF-04"),
        ("mod:tests.models.factories:bear", {}, "CB-REF-04"),
        ("mod:tests.models.factories:number", {}, "CB-REF-04"),
        ("mod:tests.models.factories:failing", {}, "CB-REF-04"),
        ("mod:tests.models.factories:ending", {}, "CB-REF-04"),
        ("mod:tests.models.factories:ring", {}, "CB-REF-03"),
        ("mod:tests.models.factories:NOT_A_FACTORY", {}, "CB-REF-04"),
        ("mod:tests.models.factories:bare", {"depth": 2}, "CB-REF-04"),
        ("mod:tests.models.factories:bare", {}, "CB-INPUT-02"),
    ],
)
def test_an_architecture_that_cannot_be_built_is_an_error(reference: str, options: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(reference, options=options)
    assert caught.value.code == code
    assert caught.value.why
    assert caught.value.do


def test_inputs_that_cannot_be_guessed_are_an_error_with_the_models_message() -> None:
    small = {"d_model": 16, "num_hidden_layers": 1, "prediction_length": 4, "context_length": 8}
    with pytest.raises(UsageError) as caught:
        build("hf:PatchTSTModel", options=small)
    assert caught.value.code == "CB-INPUT-02"
    assert "past_values" in caught.value.why
    assert "--inputs" in caught.value.do


def test_a_misspelt_factory_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="bare"):
        build("mod:tests.models.factories:bear")


@pytest.mark.parametrize(
    ("package", "reference"),
    [("timm", "timm:resnet18"), ("torchvision", "torchvision:vit_b_16"), ("transformers", "hf:ViTModel")],
)
def test_an_absent_library_names_its_extra(monkeypatch: pytest.MonkeyPatch, package: str, reference: str) -> None:
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.models", None)
    with pytest.raises(MissingPackage) as caught:
        build(reference)
    assert caught.value.exit_code == 3
    assert "pip install 'cbsurgeon[" in caught.value.do


def test_a_factory_in_the_current_folder_is_found(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "my_own_model_file.py").write_text(
        "import torch\ndef make(): return torch.nn.Linear(3, 2), torch.zeros(2, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    model = build("mod:my_own_model_file:make")
    assert isinstance(model, Model)
    assert isinstance(model.module, torch.nn.Linear)


def test_a_skeleton_holds_no_numbers_and_stops_growing() -> None:
    bare = skeleton("timm:vit_tiny_patch16_224", {"depth": 1}, 1000)
    assert bare is not None
    assert all(tensor.is_meta for tensor in bare.state_dict().values())
    with pytest.raises(UsageError, match="CB-REF-06"):
        skeleton("timm:vit_tiny_patch16_224", {"depth": 100000}, 1000)
