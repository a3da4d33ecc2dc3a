"""Files → models: the values that are read or inferred, and the errors for files that do not fit."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cbsurgeon import models
from cbsurgeon.errors import CBSurgeonError, InputFileError, UsageError
from cbsurgeon.models import Model, Provenance, inputs
from cbsurgeon.models.saving import describe, same_bytes

TIMM = "timm:vit_tiny_patch16_224"
SMALL = {"depth": 2, "img_size": 64, "num_classes": 7}


@pytest.fixture(scope="module")
def vit() -> Model:
    """A small ViT whose weights are not those any builder would draw."""
    model = models.build(TIMM, options=SMALL)
    assert model.module is not None
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def state_of(model: Model) -> dict[str, torch.Tensor]:
    assert model.module is not None
    return dict(model.module.state_dict())


def assert_same(model: Model, other: Model) -> None:
    own, given = state_of(model), state_of(other)
    assert list(own) == list(given)
    assert all(same_bytes(own[key], given[key]) for key in own)


def wrapped(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
def test_our_own_file_needs_nothing_else(vit: Model, tmp_path: Path, suffix: str) -> None:
    path = models.save(vit, tmp_path / f"m.{suffix}")
    loaded = models.load(str(path))
    assert_same(vit, loaded)
    assert loaded.provenance.architecture == TIMM
    assert loaded.provenance.architecture_options == SMALL
    assert loaded.provenance.reference == str(path)
    assert len(loaded.provenance.sha256 or "") == 64
    assert loaded.module is not None
    assert not loaded.module.training
    assert loaded.example_inputs[0].shape == (2, 3, 64, 64)


def test_a_fresh_process_computes_the_same_bits(vit: Model, tmp_path: Path) -> None:
    path = models.save(vit, tmp_path / "m.safetensors")
    assert vit.module is not None
    with torch.no_grad():
        expected = vit.module(*vit.example_inputs)
    code = (
        "import sys, torch; from cbsurgeon import models; m = models.load(sys.argv[1])\n"
        "with torch.no_grad(): torch.save(m.module(*m.example_inputs), sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, path, tmp_path / "out.pt"], check=True, cwd=Path(__file__).parents[2])
    assert torch.equal(torch.load(tmp_path / "out.pt", weights_only=True), expected)


def test_error_for_a_bare_state_dict_names_the_flag_to_add(vit: Model, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(state_of(vit), path)
    with pytest.raises(UsageError) as caught:
        models.load(str(path))
    assert caught.value.code == "CB-LOAD-20"
    assert "--arch timm:NAME" in caught.value.do
    assert "32 tensors" in caught.value.why


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_bare_state_dict_with_its_architecture(vit: Model, tmp_path: Path, zipped: bool) -> None:
    torch.save(state_of(vit), tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    loaded = models.load(str(tmp_path / "model.pt"), arch=TIMM, options={"depth": 2})
    assert_same(vit, loaded)
    # Classes and image size came from the shapes of the head and of the position embedding.
    assert loaded.provenance.architecture_options == SMALL


def test_plain_safetensors_with_its_architecture(vit: Model, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(state_of(vit), tmp_path / "model.safetensors")
    assert_same(vit, models.load(str(tmp_path / "model.safetensors"), arch=TIMM, options={"depth": 2}))


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
def test_prefixes_of_wrappers_are_taken_off(vit: Model, tmp_path: Path, prefix: str) -> None:
    torch.save(wrapped(state_of(vit), prefix), tmp_path / "model.pt")
    assert_same(vit, models.load(str(tmp_path / "model.pt"), arch=TIMM, options={"depth": 2}))


def test_an_averaged_model_counts_its_updates(vit: Model, tmp_path: Path) -> None:
    state = {"n_averaged": torch.tensor(3), **wrapped(state_of(vit), "module.")}
    torch.save(state, tmp_path / "model.pt")
    assert_same(vit, models.load(str(tmp_path / "model.pt"), arch=TIMM, options={"depth": 2}))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_a_module_really_called_module_keeps_its_name(tmp_path: Path, prefix: str) -> None:
    arch = "mod:tests.models.factories:wrapped"
    model = models.build(arch)
    torch.save(wrapped(state_of(model), prefix), tmp_path / "model.pt")
    assert_same(model, models.load(str(tmp_path / "model.pt"), arch=arch))


def test_a_training_checkpoint_of_timm_names_everything(vit: Model, tmp_path: Path) -> None:
    arguments = argparse.Namespace(
        model="vit_tiny_patch16_224", num_classes=7, img_size=None, input_size=None, model_kwargs={"depth": 2}
    )
    payload = {
        "epoch": 3,
        "arch": "vit_tiny_patch16_224",
        "state_dict": state_of(vit),
        "args": arguments,
        "metric": 0.5,
    }
    averaged = {key: value * 0 for key, value in state_of(vit).items()}
    torch.save({**payload, "state_dict_ema": averaged}, tmp_path / "checkpoint-3.pth.tar")
    loaded = models.load(str(tmp_path / "checkpoint-3.pth.tar"))
    assert_same(vit, loaded)
    assert loaded.provenance.architecture == TIMM
    opened = models.open_checkpoint(tmp_path / "checkpoint-3.pth.tar")
    assert (opened.entry, opened.other_entries, opened.written_by) == ("state_dict", ("state_dict_ema",), "timm")
    chosen = models.load(str(tmp_path / "checkpoint-3.pth.tar"), entry="state_dict_ema")
    assert all(not value.any() for value in state_of(chosen).values())


def test_a_checkpoint_of_deit_names_its_model_in_the_arguments(vit: Model, tmp_path: Path) -> None:
    payload = {"model": state_of(vit), "args": argparse.Namespace(model="vit_tiny_patch16_224", input_size=224)}
    torch.save(payload, tmp_path / "c.pth")
    assert_same(vit, models.load(str(tmp_path / "c.pth"), options={"depth": 2}))


def test_arch_may_be_a_name_of_torchvision(tmp_path: Path) -> None:
    model = models.build("torchvision:squeezenet1_1", options={"num_classes": 3})
    torch.save({"arch": "squeezenet1_1", "state_dict": wrapped(state_of(model), "module.")}, tmp_path / "c.pth.tar")
    loaded = models.load(str(tmp_path / "c.pth.tar"))
    assert_same(model, loaded)
    assert loaded.provenance.architecture_options == {"num_classes": 3}


def test_an_unknown_arch_gets_the_nearest(vit: Model, tmp_path: Path) -> None:
    torch.save({"arch": "vit_tny_patch16_224", "state_dict": state_of(vit)}, tmp_path / "c.pth")
    with pytest.raises(UsageError) as caught:
        models.load(str(tmp_path / "c.pth"))
    assert caught.value.code == "CB-REF-02"
    assert "vit_tiny_patch16_224" in caught.value.do


def test_no_head_and_one_channel_are_seen_in_the_shapes(tmp_path: Path) -> None:
    model = models.build(TIMM, options={"depth": 1, "img_size": 32, "num_classes": 0, "in_chans": 1})
    torch.save(state_of(model), tmp_path / "m.pt")
    loaded = models.load(str(tmp_path / "m.pt"), arch=TIMM, options={"depth": 1})
    assert_same(model, loaded)
    assert loaded.example_inputs[0].shape == (2, 1, 32, 32)


def test_labels_of_a_transformers_head_are_seen_in_the_shapes(tmp_path: Path) -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = models.build("hf:ViTForImageClassification", options={**small, "image_size": 32, "num_labels": 9})
    torch.save(state_of(model), tmp_path / "m.pt")
    options = {**small, "image_size": 32}
    assert_same(model, models.load(str(tmp_path / "m.pt"), arch="hf:ViTForImageClassification", options=options))


@pytest.mark.parametrize(
    ("arch", "options", "words"),
    [
        (TIMM, {}, ("120 of 152 keys are missing", "blocks.2.norm1.weight", "and 117 more")),
        ("timm:vit_small_patch16_224", {"depth": 2}, ("32 of 32 shapes differ", "1x1x192 in the file, 1x1x384")),
        (TIMM, {"depth": 1}, ("12 of 32 keys are not in the architecture", "blocks.1.norm1.weight", "and 9 more")),
        ("mod:tests.models.factories:bare", {}, ("keys are missing", "first.weight", "not in the architecture")),
    ],
)
def test_weights_that_do_not_fit_say_which(
    vit: Model, tmp_path: Path, arch: str, options: dict[str, Any], words: tuple[str, ...]
) -> None:
    torch.save(state_of(vit), tmp_path / "m.pt")
    with pytest.raises(InputFileError) as caught:
        models.load(str(tmp_path / "m.pt"), arch=arch, options=options, input="3")
    assert caught.value.code == "CB-FIT-01"
    assert all(word in caught.value.why for word in words)


def test_a_module_that_is_refused_is_not_touched() -> None:
    module = nn.Linear(3, 2)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(InputFileError, match="CB-FIT-01"):
        models.fit(module, {"weight": torch.zeros(2, 3), "bias": torch.zeros(5)}, "here")
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_file_decides_the_number_type(tmp_path: Path, dtype: torch.dtype) -> None:
    model = models.build("mod:tests.models.factories:with_tensor")
    assert model.module is not None
    model.module.to(dtype)
    loaded = models.load(str(models.save(model, tmp_path / "m.safetensors")), arch=model.provenance.architecture)
    assert_same(model, loaded)
    assert loaded.example_inputs[0].dtype == dtype
    assert loaded.module is not None
    loaded.module(*loaded.example_inputs)


def test_mixed_number_types_stay_mixed(tmp_path: Path) -> None:
    model = models.build("mod:tests.models.factories:with_tensor")
    assert model.module is not None
    model.module.last.to(torch.float16)
    loaded = models.load(str(models.save(model, tmp_path / "m.pt")), arch=model.provenance.architecture)
    assert_same(model, loaded)


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    from safetensors import safe_open

    model = models.build("mod:tests.models.factories:tied")
    path = models.save(model, tmp_path / "m.safetensors")
    with safe_open(path, framework="pt") as opened:
        assert opened.keys() == ["embed.weight"]
        assert json.loads(opened.metadata()["cbsurgeon"])["aliases"] == {"head.weight": "embed.weight"}
    for suffix in ("safetensors", "pt"):
        path = models.save(model, tmp_path / f"m.{suffix}", force=True)
        loaded = models.load(str(path), arch="mod:tests.models.factories:tied")
        assert_same(model, loaded)
        assert loaded.module is not None
        assert loaded.module.head.weight is loaded.module.embed.weight


def test_insertions_are_never_dropped_in_silence(vit: Model, tmp_path: Path) -> None:
    recipes = ({"op": "cb", "sites": [1]}, {"op": "cb_s", "sites": [2]})
    path = models.save(replace(vit, recipes=recipes), tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match="CB-LOAD-22"):
        models.load(str(path))
    assert models.open_checkpoint(path).recipes == recipes
    with models.opened(str(path)) as content:
        assert content.recipes == recipes
        bare = content.architecture()
        assert bare.recipes == ()
        loaded = content.finish(replace(bare, recipes=content.recipes))
    assert loaded.recipes == recipes
    assert_same(vit, loaded)


def test_an_insertion_with_parameters_loads_in_steps(tmp_path: Path) -> None:
    arch = "mod:tests.models.factories:with_tensor"
    edited = models.build(arch)
    assert edited.module is not None
    edited.module.last.register_parameter("scale", nn.Parameter(torch.ones(2)))
    path = models.save(replace(edited, recipes=({"op": "cb_s"},)), tmp_path / "m.safetensors")
    checkpoint = models.open_checkpoint(path)
    bare = models.architecture(checkpoint, arch=arch)
    assert bare.module is not None
    assert "last.scale" not in bare.module.state_dict()
    with pytest.raises(InputFileError, match=r"last\.scale"):
        models.finish(bare, checkpoint)
    bare.module.last.register_parameter("scale", nn.Parameter(torch.zeros(2)))
    assert_same(edited, models.finish(bare, checkpoint))


@pytest.mark.parametrize(
    "architecture", ["mod:os:getcwd", "hf:./folder", "hf:someone/model", "timm:hf-hub:someone/model"]
)
def test_a_file_may_not_name_code_or_downloads(vit: Model, tmp_path: Path, architecture: str) -> None:
    path = models.save(replace(vit, provenance=Provenance(architecture=architecture)), tmp_path / "m.safetensors")
    with pytest.raises(UsageError) as caught:
        models.load(str(path))
    assert caught.value.code == "CB-LOAD-21"
    assert f"--arch {architecture}" in caught.value.do


def test_the_file_states_the_inputs_of_a_factory_that_returns_none(tmp_path: Path) -> None:
    """``bare`` returns a module alone. Its file says how large its inputs are, and another ``--input`` is preferred."""
    arch = "mod:tests.models.factories:bare"
    model = models.build(arch, input="3")
    path = models.save(model, tmp_path / "m.safetensors")
    assert [tuple(value.shape) for value in models.load(str(path), arch=arch, batch=5).example_inputs] == [(5, 3)]
    given = models.load(str(path), arch=arch, input="3,2").example_inputs
    assert [tuple(value.shape[1:]) for value in given] == [(3,), (2,)]
    plain = tmp_path / "plain.pt"
    torch.save(model.module.state_dict(), plain)  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="CB-INPUT-02"):
        models.load(str(plain), arch=arch)


@pytest.mark.parametrize("text", ["3x", "0", "3:float7", "9999999"])
def test_inputs_in_a_file_that_cannot_be_read_are_refused(tmp_path: Path, text: str) -> None:
    arch = "mod:tests.models.factories:bare"
    model = models.build(arch, input="3")
    assert model.module is not None
    document = replace(describe(model, {}), input=text).to_json()
    torch.save({"state_dict": model.module.state_dict(), "cbsurgeon": document}, tmp_path / "m.pt")
    with pytest.raises(InputFileError, match="CB-META-01"):
        models.load(str(tmp_path / "m.pt"), arch=arch)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((torch.zeros(2, 3, 8, 9),), "3x8x9"),
        ((torch.zeros(2, 3), torch.zeros(2, 7, dtype=torch.int64)), "3:float32,7:int64"),
        ((torch.zeros(2, 3, dtype=torch.float16),), "3:float16"),
        ((torch.zeros(2, 3), 1.0), ""),
        ((torch.zeros(2),), ""),
        ((torch.zeros(2, 3, dtype=torch.complex64),), ""),
    ],
)
def test_shapes_are_spelled_as_the_flag_takes_them(values: tuple[Any, ...], expected: str) -> None:
    assert inputs.spelled(Model(nn.Identity(), values)) == expected
    if expected:
        made = inputs.override(Model(nn.Identity()), input=expected, inputs=None, batch=2).example_inputs
        assert [(one.shape, one.dtype) for one in made] == [(one.shape, one.dtype) for one in values]


def test_a_factory_named_by_the_file_and_by_the_user_is_built(tmp_path: Path) -> None:
    arch = "mod:tests.models.factories:bare"
    model = models.build(arch, options={"width": 6}, input="3")
    path = models.save(model, tmp_path / "m.safetensors")
    loaded = models.load(str(path), arch=arch, input="3")
    assert_same(model, loaded)
    assert loaded.provenance.architecture_options == {"width": 6}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickled_module_needs_trust(vit: Model, tmp_path: Path, zipped: bool) -> None:
    torch.save(vit.module, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputFileError) as caught:
        models.load(str(tmp_path / "m.pt"))
    assert caught.value.code == "CB-LOAD-12"
    assert "VisionTransformer" in caught.value.why
    assert "runs code" in caught.value.why
    assert "state_dict()" in caught.value.do
    loaded = models.load(str(tmp_path / "m.pt"), trust=True, input="3x64x64")
    assert_same(vit, loaded)
    assert loaded.provenance.architecture is None


def test_an_exported_program_needs_trust_and_keeps_its_recipes(tmp_path: Path) -> None:
    model = models.build("mod:tests.models.factories:with_tensor")
    assert model.module is not None
    program = torch.export.export(model.module, model.example_inputs)
    path = models.save(replace(model, program=program, recipes=({"op": "cb"},)), tmp_path / "m.pt2")
    with pytest.raises(InputFileError, match="CB-LOAD-13"):
        models.load(str(path))
    with pytest.raises(UsageError, match="CB-LOAD-23"):
        models.load(str(path), trust=True, input="3")
    loaded = models.load(str(path), trust=True)
    assert loaded.module is None
    assert loaded.recipes == ({"op": "cb"},)
    assert loaded.program is not None
    assert torch.equal(loaded.program.module()(*loaded.example_inputs), model.module(*model.example_inputs))


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused_even_with_trust(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "m.pt")
    with pytest.raises(InputFileError) as caught:
        models.load(str(tmp_path / "m.pt"), trust=True)
    assert caught.value.code == "CB-LOAD-11"
    assert "state_dict()" in caught.value.do


@pytest.mark.parametrize("payload", [3, {}, [torch.zeros(1)], {"epoch": 1}, {"state_dict": {}}, {1: torch.zeros(1)}])
def test_a_file_without_weights_is_an_error_with_its_keys(tmp_path: Path, payload: Any) -> None:
    torch.save(payload, tmp_path / "m.pt")
    with pytest.raises(CBSurgeonError) as caught:
        models.load(str(tmp_path / "m.pt"), arch=TIMM)
    assert caught.value.code == "CB-FIT-02"


def test_reading_does_not_change_the_file(vit: Model, tmp_path: Path) -> None:
    for suffix in ("safetensors", "pt"):
        path = models.save(vit, tmp_path / f"m.{suffix}")
        before = path.read_bytes()
        checkpoint = models.open_checkpoint(path)
        for tensor in checkpoint.state_dict.values():
            tensor.zero_()  # mapped privately: the page is copied, the file is not written
        assert path.read_bytes() == before


def write_shards(state: dict[str, torch.Tensor], folder: Path) -> Path:
    from safetensors.torch import save_file

    keys = list(state)
    halves = {"model-00001-of-00002.safetensors": keys[:9], "model-00002-of-00002.safetensors": keys[9:]}
    for name, chosen in halves.items():
        save_file({key: state[key] for key in chosen}, folder / name)
    placed = {key: name for name, chosen in halves.items() for key in chosen}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": placed}))
    return index


def test_shards_are_read_through_their_index(vit: Model, tmp_path: Path) -> None:
    index = write_shards(state_of(vit), tmp_path)
    assert_same(vit, models.load(str(index), arch=TIMM, options={"depth": 2}))


def test_no_shard_is_ever_overwritten(vit: Model, tmp_path: Path) -> None:
    loaded = models.load(str(write_shards(state_of(vit), tmp_path)), arch=TIMM, options={"depth": 2})
    with pytest.raises(CBSurgeonError, match="CB-OUT-03"):
        models.save(loaded, tmp_path / "model-00002-of-00002.safetensors", force=True)


def test_a_file_without_permission_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything, so the system's answer is played

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputFileError, match="Permission denied") as caught:
        models.load(str(path))
    assert caught.value.code == "CB-LOAD-05"


def test_one_shard_points_to_the_index(vit: Model, tmp_path: Path) -> None:
    index = write_shards(state_of(vit), tmp_path)
    with pytest.raises(InputFileError) as caught:
        models.load(str(tmp_path / "model-00002-of-00002.safetensors"))
    assert caught.value.code == "CB-ST-06"
    assert str(index) in caught.value.do


def test_a_file_beyond_two_gigabytes_is_mapped_not_read(tmp_path: Path) -> None:
    """Sparse on disk: 2.2 GB of zeros that take no space, opened without touching them."""
    elements = 1_100_000_000
    header = json.dumps({"a": {"dtype": "F16", "shape": [elements], "data_offsets": [0, 2 * elements]}}).encode()
    path = tmp_path / "big.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.seek(2 * elements - 2, 1)
        file.write(b"\x00\x3c")  # the last number is one
    opened = models.open_checkpoint(path, digest=False)
    assert opened.state_dict["a"].shape == (elements,)
    assert opened.state_dict["a"][-1] == 1


def test_a_pickled_module_is_not_a_checkpoint(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(UsageError) as caught:
        models.open_checkpoint(tmp_path / "whole.pt", trust=True)
    assert caught.value.code == "CB-LOAD-17"


def test_another_number_of_outputs_is_named_and_the_factory_says_what_it_takes(tmp_path: Path) -> None:
    """The advice leads from the refused file to the factory's own keyword, and that loads it."""
    reference = "mod:tests.models.factories:counted"
    torch.save(models.build(reference, options={"classes": 7}).module.state_dict(), tmp_path / "m.pt")
    with pytest.raises(InputFileError, match="CB-FIT-01") as refused:
        models.load(str(tmp_path / "m.pt"), arch=reference)
    assert "--model-option num_classes=7" in refused.value.do
    with pytest.raises(UsageError, match="CB-REF-04") as unknown:
        models.load(str(tmp_path / "m.pt"), arch=reference, options={"num_classes": 7})
    assert "(classes, depth)" in unknown.value.do and "--model-option classes=VALUE" in unknown.value.do
    loaded = models.load(str(tmp_path / "m.pt"), arch=reference, options={"classes": 7})
    assert loaded.module[-1].out_features == 7
    with pytest.raises(UsageError, match="leave the options out"):
        models.build("mod:tests.models.factories:wrapped", options={"depth": 2})
