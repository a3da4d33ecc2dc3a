"""What a message says in cases that once misled: the flag as it is typed, the file as it is, the options kept."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch

import cbsurgeon as cbs
from cbsurgeon.errors import InputFileError, SurgeryError, UsageError
from cbsurgeon.models import load
from cbsurgeon.options import Loading
from tests.cli.running import SMALL, VIT, run


def test_the_leak_message_names_the_flag_and_the_keyword_apart() -> None:
    options = {"n_layer": 1, "n_embd": 24, "n_head": 2, "vocab_size": 50, "n_positions": 16}
    found = cbs.inspect(cbs.load("hf:GPT2Model", options=options))
    with pytest.raises(SurgeryError) as caught:
        cbs.plan(found)
    assert caught.value.code == "CB-LEAK-01"
    assert "--causal" in caught.value.do and "causal=True in Python" in caught.value.do
    with pytest.raises(SurgeryError, match="CB-LEAK-02") as padded:  # the causal form is no answer to padding
        cbs.plan(found, causal=True)
    assert "--masked" in padded.value.do and "masked=True in Python" in padded.value.do


@pytest.mark.parametrize("text", ["0", "-1", "x", "", "8,1,64"])
def test_error_for_an_invalid_batch_names_a_valid_one(text: str) -> None:
    outcome = run("export", VIT, "-o", "never.onnx", "--batch", text)
    assert outcome.code == 2 and "  do     --batch 1,8,64\n" in outcome.err and "any batch" in outcome.err


def test_the_help_names_every_opset_that_is_accepted() -> None:
    from cbsurgeon.vocabulary import OPSETS

    text = " ".join(run("export", "--help").out.split())
    assert f"{', '.join(map(str, OPSETS[:-1]))} or {OPSETS[-1]}" in text


@pytest.mark.parametrize("text", [" ", "", ","])
def test_an_empty_exclusion_is_not_silent(text: str) -> None:
    outcome = run("insert", VIT, "--exclude", text, "--dry-run")
    assert outcome.code == 2 and "--exclude 7,11,taps" in outcome.err


def test_every_explanation_of_upper_says_per_stack() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert "of each stack" in readme
    assert "of each stack" in " ".join(run("insert", "--help").out.split())


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "helper.py").write_text("WIDTH = 48\n")
    file = tmp_path / "my_net.py"
    file.write_text(
        "from helper import WIDTH\n\n\ndef needs(x):\n    return x\n\n\n"
        "def build(depth=2):\n    from tests.cli.running import tiny_vit\n\n"
        "    assert WIDTH == 48\n    return tiny_vit()\n"
    )
    return file


def test_a_python_file_is_a_factory_by_its_path(network: Path) -> None:
    """Relative and absolute paths; the file may import modules in its own folder."""
    for path in ("my_net.py", "./my_net.py", str(network)):
        assert len(cbs.inspect(cbs.load(f"mod:{path}:build"))) == 2


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "json.py").write_text(
            f"import torch\n\n\ndef f():\n    return torch.nn.Linear({number}, 1), (torch.ones(2, {number}),)\n"
        )
    for number in (1, 2):
        assert cbs.load(f"mod:{tmp_path}/{number}/json.py:f").module.in_features == number
    assert json.loads("1") == 1


def test_error_for_a_python_file_names_its_factory(network: Path) -> None:
    with pytest.raises(InputFileError, match="Python code") as caught:
        load("my_net.py")
    assert caught.value.do.endswith("mod:my_net.py:build")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("deit_small_patch16_224", "timm:deit_small_patch16_224"),
        ("vit_b_16", "torchvision:vit_b_16"),
        ("vit_base_patch16_225", "timm:vit_base_patch16_224"),
        ("ViTForImageClassification", "hf:ViTForImageClassification"),
    ],
)
def test_error_for_a_name_without_its_kind_names_the_reference(typed: str, meant: str) -> None:
    with pytest.raises(InputFileError) as caught:
        load(typed)
    assert caught.value.code == "CB-LOAD-01" and caught.value.do == f"did you mean {meant}?"


def test_a_path_is_not_taken_for_a_name() -> None:
    with pytest.raises(InputFileError) as caught:
        load("runs/deit_small_patch16_224")
    assert "did you mean" not in caught.value.do


def test_two_vectors_stay_two_inputs() -> None:
    """``16,16`` is one image misspelt for a ViT, and ids and a mask for BERT."""
    model = cbs.load(
        "hf:BertModel",
        input="16,16",
        options={
            "num_hidden_layers": 1,
            "hidden_size": 24,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "vocab_size": 50,
        },
    )
    assert [tuple(one.shape) for one in model.example_kwargs.values()] == [(2, 16), (2, 16)]
    with pytest.raises(UsageError, match="one axis each") as caught:
        cbs.load(VIT, input="64,64")
    assert caught.value.code == "CB-INPUT-01"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("messages")
    model = cbs.load("timm:deit_tiny_patch16_224", options=SMALL)
    recipe = cbs.plan(cbs.inspect(model), layers="1")
    edited = cbs.insert(model, recipe)
    cbs.export(edited, place / "model.onnx")
    (place / "model.onnx").rename(place / "MODEL.ONNX")
    torch.save(edited.module, place / "module.pt")
    torch.save(model.module.state_dict(), place / "plain.pt")
    cbs.save(cbs.insert(model, recipe, on="program"), place / "edited.pt2")
    (place / "recipe.json").write_text(json.dumps(recipe.to_dict()))
    (place / "m.engine").write_bytes(b"ftrt or something else")
    (place / "m.engine.json").write_text(
        json.dumps({"schema": "cbsurgeon.engine/1", "model": {"recipes": [recipe.to_dict()]}})
    )
    (place / "bare.engine").write_bytes(b"ftrt")
    return place


@pytest.mark.wide
def test_exported_files_are_inspected_whatever_the_case_of_their_suffix(saved: Path) -> None:
    for name in ("MODEL.ONNX", "m.engine"):
        outcome = run("inspect", saved / name)
        assert outcome.code == 0 and "cb at end of blocks 1" in outcome.out
    assert "CB-ONNX-04" in run("inspect", saved / "bare.engine").err
    assert "CB-ENGINE-03" in run("inspect", saved / "none.engine").err


@pytest.mark.parametrize("verb", ["insert", "remove", "ship"])
@pytest.mark.parametrize(("name", "what"), [("MODEL.ONNX", "an ONNX file"), ("m.engine", "a TensorRT engine")])
def test_exported_files_given_as_a_model_are_named(
    verb: str, name: str, what: str, saved: Path, tmp_path: Path
) -> None:
    outcome = run(verb, saved / name, "-o", tmp_path / "out.safetensors")
    assert outcome.code == 2 and f"it is {what}" in outcome.err and "give the model it was" in outcome.err


@pytest.mark.parametrize("name", ["edited.pt2", "module.pt"])
def test_a_recipe_for_a_file_that_brings_its_own_insertions_is_refused(name: str, saved: Path) -> None:
    with pytest.raises(UsageError, match="--trained-with has no meaning") as caught:
        cbs.load(str(saved / name), trust=True, input=None, recipe=saved / "recipe.json")
    assert caught.value.code == "CB-LOAD-23"


def test_comparing_a_program_with_weights_passes_the_recipe_to_the_weights(saved: Path) -> None:
    loading = {"arch": "timm:deit_tiny_patch16_224", "recipe": saved / "recipe.json", "options": SMALL, "trust": True}
    sides = [Loading(**loading).for_side(str(saved / name)) for name in ("edited.pt2", "plain.pt")]
    assert [side.recipe is not None for side in sides] == [False, True]
    assert cbs.load(str(saved / "edited.pt2"), sides[0]).program is not None
    assert len(cbs.load(str(saved / "plain.pt"), sides[1]).recipes) == 1


def test_the_hint_to_bisect_keeps_the_flags_that_loaded_the_files(saved: Path) -> None:
    """Weights that need ``--arch`` and options, against an edited file: they differ, and the hint is a command."""
    flags = ["--arch", "timm:deit_tiny_patch16_224", "--trust"]
    flags += [word for key, value in SMALL.items() for word in ("--model-option", f"{key}={value}")]
    outcome = run("verify", saved / "plain.pt", saved / "MODEL.ONNX", "--batches", "1", *flags)
    assert outcome.code == 1
    do = next(line for line in outcome.err.splitlines() if line.startswith("  do "))
    words = shlex.split(do.split("cbsurgeon ")[1].split(" > ")[0])
    assert words[:3] == ["verify", str(saved / "plain.pt"), str(saved / "MODEL.ONNX")]
    assert set(flags) <= set(words) and words[-2:] == ["--bisect", "--json"]
    bisected = run(*words)
    assert bisected.code == 1 and bisected.document["first_bad_block"] is not None
    assert "verify" not in next(line for line in bisected.err.splitlines() if line.startswith("  do "))
