"""Bad input: one clear message in four parts, the right exit code, no traceback, no incomplete file."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.cli.running import CONVOLUTIONS, TRAINING, VIT, Outcome, run, tiny_vit

ARCH = ("--arch", VIT)


def listing(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(outcome: Outcome, code: int, *said: str) -> None:
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    first, *rest = outcome.err.splitlines()
    assert first.startswith("error: ") and first.endswith("]")
    labels = [line.split()[0] for line in rest if line.startswith("  ") and not line.startswith("   ")]
    assert "do" in labels and set(labels) <= {"where", "why", "do", "more"} and labels[-1] == "more"
    for text in said:
        assert text in outcome.err


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pt"
    torch.save(tiny_vit()[0].state_dict(), path)
    return path


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    torch.save(tiny_vit()[0].state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])


def noise(path: Path) -> None:
    path.write_bytes(os.urandom(4096))


def a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": [1, 2, 3]}))


def a_pickled_module(path: Path) -> None:
    torch.save(nn.Linear(2, 2), path)


def a_folder(path: Path) -> None:
    path.mkdir()


def nothing(path: Path) -> None:
    pass


@pytest.mark.parametrize("make", [nothing, a_folder, empty, truncated, noise, a_pickle, a_pickled_module])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_that_are_no_checkpoint(make: Callable[[Path], None], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    make(path)
    before = listing(tmp_path)
    refused(run("insert", path, *ARCH, "-o", tmp_path / "out.safetensors"), 2, str(path))
    assert listing(tmp_path) == before


def test_a_state_dict_of_another_architecture(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    state = tiny_vit()[0].state_dict()
    state["head.weight"] = torch.zeros(7, 48)
    state["extra"] = state.pop("norm.bias")
    torch.save(state, path)
    outcome = run("inspect", path, *ARCH)
    refused(outcome, 2, "head.weight is 7x48 in the file, 10x48 in the architecture", "norm.bias", "extra")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("inspect", "timm:deit_smal_patch16_224"), "deit_small_patch16_224"),
        (("inspect", "torchvision:vit_b16"), "vit_b_16"),
        (("inspect", "hf:VitForImageClassification"), "ViTForImageClassification"),
        (("inspect", "mod:tests.cli.running:tiny_vi"), "tiny_vit"),
        (("inspect", "timn:vit"), "timm"),
        (("inspect", TRAINING), "training mode"),
        (("insert", VIT, "--op", "cbs"), "cb_s"),
        (("insert", VIT, "--layers", "block"), "did you mean --layers blocks?"),
    ],
)
def test_names_that_do_not_exist_and_models_that_cannot_be_read(words: tuple[str, ...], said: str) -> None:
    refused(run(*words), 2, said)


@pytest.mark.parametrize("verb", ["insert", "ship"])
def test_an_unknown_operator_is_refused_before_the_model_is_loaded(verb: str, tmp_path: Path) -> None:
    outcome = run(verb, tmp_path / "absent.safetensors", "--op", "cbs", "-o", tmp_path / "out.safetensors")
    refused(outcome, 2, "CB-OP-01", "did you mean --op cb_s")


@pytest.mark.parametrize("layers", ["90", "1-9", "last:3"])
def test_layers_that_do_not_exist(layers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run("insert", VIT, "--layers", layers), 1, layers)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_blocks_cannot_be_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run("insert", CONVOLUTIONS), 1)
    refused(run("ship", CONVOLUTIONS, "-o", "out"), 1)
    assert list(tmp_path.iterdir()) == []


def test_inspecting_a_model_without_blocks_answers_and_exits_1() -> None:
    outcome = run("inspect", CONVOLUTIONS, "--json")
    assert outcome.code == 1
    assert outcome.document["blocks"] == []


@pytest.mark.parametrize(
    "words",
    [
        ("insert", VIT, "-o", "OUT.safetensors"),
        ("export", VIT, "-o", "OUT.onnx"),
        ("export", VIT, "-o", "OUT.pt2"),
    ],
)
def test_an_output_that_exists_is_kept(words: tuple[str, ...], tmp_path: Path) -> None:
    target = tmp_path / words[-1]
    target.write_bytes(b"mine")
    before = listing(tmp_path)
    refused(run(*words[:-1], target), 2, "[CB-OUT-01]", "--force")
    assert listing(tmp_path) == before


def test_an_input_is_never_an_output(weights: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    refused(run("insert", weights, *ARCH, "-o", weights, "--force"), 2, "[CB-OUT-03]")
    assert listing(tmp_path) == before


def test_a_folder_that_does_not_exist_or_is_not_writable(tmp_path: Path) -> None:
    refused(run("insert", VIT, "-o", tmp_path / "no" / "out.safetensors"), 2, "[CB-OUT-05]", "mkdir")
    refused(run("ship", VIT, "-o", tmp_path / "no" / "out"), 2, "[CB-OUT-05]", "mkdir")
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere; the refusal itself is tested on the writer with os.access replaced")
    tmp_path.chmod(0o500)
    refused(run("insert", VIT, "-o", tmp_path / "out.safetensors"), 2, "[CB-OUT-06]")
    refused(run("ship", VIT, "-o", tmp_path / "out"), 2, "[CB-OUT-06]")


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(run("insert", VIT, "-o", tmp_path / "out.safetensors"), 2, "[CB-OUT-06]")
    refused(run("ship", VIT, "-o", tmp_path / "out"), 2, "[CB-OUT-06]")


@pytest.mark.parametrize("kind", ["foreign", "file", "link", "taken"])
def test_ship_replaces_only_what_ship_wrote(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    if kind == "file":
        target.write_text("mine")
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir()
        target.symlink_to(tmp_path / "elsewhere")
    else:
        target.mkdir()
        (target / "thesis.txt").write_text("mine")
    before = listing(tmp_path)
    force = [] if kind == "taken" else ["--force"]
    codes = {"foreign": "CB-OUT-09", "file": "CB-OUT-04", "link": "CB-OUT-02", "taken": "CB-OUT-01"}
    refused(run("ship", VIT, "-o", target, *force), 2, codes[kind])
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("timm", ("inspect", "timm:deit_tiny_patch16_224")),
        ("transformers", ("inspect", "hf:ViTForImageClassification")),
        ("onnxscript", ("export", VIT, "-o", "out.onnx")),
        ("matplotlib", ("ship", VIT, "-o", "out")),
        ("jinja2", ("ship", VIT, "-o", "out")),
    ],
)
def test_an_absent_package_exits_3_with_the_extra_to_install(
    package: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    refused(run(*words), 3, "pip install 'cbsurgeon[")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": "cbsurgeon.recipe/9"}', '{"schema": "cbsurgeon.recipe/1", "sites": 3}']
)
def test_recipes_that_are_none(text: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(text)
    refused(run("insert", VIT, "--recipe", recipe, "-o", tmp_path / "out.safetensors"), 2)
    refused(
        run("insert", VIT, "--recipe", tmp_path / "absent.json", "-o", tmp_path / "out.safetensors"), 2, "absent.json"
    )
    assert not (tmp_path / "out.safetensors").exists()


def test_a_program_needs_trust(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    assert run("export", VIT, "-o", path).code == 0
    refused(run("inspect", path), 2, "--trust")
    assert run("inspect", path, "--trust").code == 0


def test_an_onnx_file_that_is_none_or_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    refused(run("inspect", path), 2, str(path))
    refused(run("verify", VIT, path), 2, str(path))


LARGE = {"an int64": (1 << 63) - 1, "beyond int64": 1 << 63, "400 digits": 10**400, "2 ** 60": 1 << 60}


@pytest.mark.parametrize("size", LARGE)
@pytest.mark.parametrize(
    "words",
    [
        ("verify", VIT, VIT, "--batches"),
        ("bench", VIT, VIT, "--budget", "1", "--batch"),
        ("bench", VIT, VIT, "--budget", "1", "--threads"),
        ("bench", VIT, VIT, "--budget"),
        ("inspect", VIT, "--batch-axis"),
        ("export", VIT, "-o", "FOLDER/x.onnx", "--opset"),
        ("export", VIT, "-o", "FOLDER/x.onnx", "--batch"),
    ],
)
def test_a_number_that_is_too_large_is_refused(tmp_path: Path, words: tuple[str, ...], size: str) -> None:
    """By its own flag, or because no memory is that large; never as a fault in cbsurgeon."""
    found = run(*(word.replace("FOLDER", str(tmp_path)) for word in words), str(LARGE[size]))
    refused(found, 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e400", "NaN"])
@pytest.mark.parametrize(
    "words",
    [("verify", VIT, VIT, "--atol"), ("verify", VIT, VIT, "--rtol"), ("ship", VIT, "-o", os.devnull, "--bench-budget")],
)
def test_a_number_that_is_not_finite_is_refused(words: tuple[str, ...], text: str) -> None:
    """With ``--atol inf`` any two models are the same."""
    refused(run(*words, text), 2, words[-1])


@pytest.mark.parametrize("text", [f"{10**400}GB", f"{10**12}TB"])
def test_a_limit_of_memory_beyond_any_machine_is_refused(text: str) -> None:
    refused(run("inspect", VIT, "--max-memory", text), 2, "--max-memory")
