"""Folders that ``save_pretrained`` wrote, and folders that want more than weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import cbsurgeon as cbs
from cbsurgeon import models
from cbsurgeon.errors import CBSurgeonError
from tests.models.factories import small_vit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    small_vit().save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_folder_is_read_and_can_be_rebuilt_without_it(folder: Path, tmp_path: Path) -> None:
    model = models.load(f"hf:{folder}")
    torch.manual_seed(3)
    expected = small_vit().state_dict()
    assert model.module is not None
    assert not model.module.training
    assert all(torch.equal(expected[key], value) for key, value in model.module.state_dict().items())
    assert model.provenance.architecture == "hf:ViTForImageClassification"
    assert model.example_inputs[0].shape == (2, 3, 32, 32)
    path = models.save(model, tmp_path / "m.safetensors")
    for file in folder.iterdir():
        file.unlink()
    again = models.load(str(path))
    assert again.module is not None
    with torch.no_grad():
        one, other = (each.module(*model.example_inputs).logits for each in (model, again) if each.module)
    assert torch.equal(one, other)


def test_shards_are_read(folder: Path) -> None:
    expected = models.load(f"hf:{folder}")
    assert expected.module is not None
    (folder / "model.safetensors").unlink()
    expected.module.save_pretrained(folder, max_shard_size="4KB")
    assert (folder / "model.safetensors.index.json").exists()
    again = models.load(f"hf:{folder}")
    assert again.module is not None
    state = expected.module.state_dict()
    assert all(torch.equal(state[key], value) for key, value in again.module.state_dict().items())


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"auto_map": {"AutoModel": "modeling_evil.Model"}}, "CB-HF-02"),
        ({"quantization_config": {"quant_method": "x"}}, "CB-HF-02"),
        ({"attn_implementation": "someone/kernel"}, "CB-HF-02"),
        ({"vision": {"_attn_implementation_internal": "someone/kernel"}}, "CB-HF-02"),
        ({"architectures": ["os.system"]}, "CB-HF-01"),
        ({"architectures": None}, "CB-HF-01"),
        ({"architectures": ["ViTImageProcessor"]}, "CB-REF-02"),
        ({"hidden_size": 32}, "CB-FIT-01"),
        ({"num_hidden_layers": 2}, "CB-FIT-01"),
    ],
)
def test_a_folder_that_asks_for_more_is_refused(folder: Path, values: dict[str, Any], code: str) -> None:
    (folder / "modeling_evil.py").write_text("raise SystemExit('ran')")
    change(folder, **values)
    with pytest.raises(CBSurgeonError) as caught:
        models.load(f"hf:{folder}")
    assert caught.value.code == code


def test_pickled_weights_are_not_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CBSurgeonError) as caught:
        models.load(f"hf:{folder}")
    assert caught.value.code == "CB-HF-03"
    assert "pytorch_model.bin" in caught.value.why


def test_an_adapter_is_not_followed_to_its_base(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/model"}')
    with pytest.raises(CBSurgeonError, match="CB-HF-02"):
        models.load(f"hf:{folder}")


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, cbs.Model, Path]:
    """A folder as a Trainer writes it after ``insert_``, its model, and the recipe."""
    model = cbs.Model(small_vit().eval(), (torch.randn(2, 3, 32, 32),))
    recipe = cbs.plan(cbs.inspect(model), op="cb_s", layers="all")
    cbs.insert_(model.module, recipe)
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if name.endswith("scale"):
                parameter.normal_()
    model.module.save_pretrained(tmp_path / "trained")
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    return tmp_path / "trained", model, tmp_path / "recipe.json"


def test_a_folder_trained_with_operators(trained: tuple[Path, cbs.Model, Path], tmp_path: Path) -> None:
    folder, model, recipe = trained
    found = cbs.load(f"hf:{folder}", recipe=recipe)
    with torch.no_grad():
        assert torch.equal(found.module(*model.example_inputs).logits, model.module(*model.example_inputs).logits)
    assert [each["op"] for each in found.recipes] == ["cb_s"]
    path = cbs.save(found, tmp_path / "m.safetensors")
    for file in folder.iterdir():
        file.unlink()
    with torch.no_grad():
        again = cbs.load(str(path)).module(*model.example_inputs).logits
        assert torch.equal(again, model.module(*model.example_inputs).logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_folder_keeps_its_number_type(
    trained: tuple[Path, cbs.Model, Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    _, model, _ = trained
    half = model.module.to(dtype)
    half.save_pretrained(tmp_path / "half")
    found = cbs.load(f"hf:{tmp_path / 'half'}")
    assert {name: value.dtype for name, value in found.module.state_dict().items()} == {
        name: value.dtype for name, value in half.state_dict().items()
    }
    with torch.no_grad():
        inputs = model.example_inputs[0].to(dtype)
        assert torch.equal(found.module(inputs).logits, half(inputs).logits)


def test_a_trained_folder_without_its_recipe_or_with_another(trained: tuple[Path, cbs.Model, Path]) -> None:
    folder, _, recipe = trained
    config = json.loads((folder / "config.json").read_text())
    assert [each["op"] for each in config.pop("cbsurgeon")] == ["cb_s"]  # the folder carries its recipe
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CBSurgeonError) as caught:
        cbs.load(f"hf:{folder}")
    assert caught.value.code == "CB-FIT-01"
    assert "--trained-with" in caught.value.do
    plain = folder.with_name("plain")
    small_vit().save_pretrained(plain)
    with pytest.raises(CBSurgeonError) as caught:
        cbs.load(f"hf:{plain}", recipe=recipe)
    assert caught.value.code == "CB-FIT-01"
    assert "missing from the file" in caught.value.why
    with pytest.raises(CBSurgeonError) as caught:
        cbs.load("hf:ViTForImageClassification", recipe=recipe)
    assert caught.value.code == "CB-REF-01"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a":1,"a":2}'])
def test_a_broken_configuration_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CBSurgeonError) as caught:
        models.load(f"hf:{folder}")
    assert caught.value.code in ("CB-HF-01", "CB-LOAD-04")


def test_a_model_of_the_hub_is_not_downloaded() -> None:
    with pytest.raises(CBSurgeonError) as caught:
        models.load("hf:google/vit-base-patch16-224")
    assert caught.value.code == "CB-REF-02"
    assert "hf download" in caught.value.do


def test_the_folder_itself_points_to_its_reference(folder: Path) -> None:
    with pytest.raises(CBSurgeonError) as caught:
        models.load(str(folder))
    assert caught.value.code == "CB-LOAD-02"
    assert f"hf:{folder}" in caught.value.do
