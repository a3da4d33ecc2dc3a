"""The origin of the weights is never guessed and always printed: file, entry, pretrained, random."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.cli.entry import main
from tests.training.networks import build

timm = pytest.importorskip("timm", reason="the architectures are timm's")

ARCH = "timm:vit_tiny_patch16_224"
OPTIONS = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
FLAGS = [part for key, value in OPTIONS.items() for part in ("--model-option", f"{key}={value}")]


def states(count: int) -> list[dict[str, Tensor]]:
    """State dicts of one architecture that differ."""
    first = build("vit").state_dict()
    return [{key: value + number for key, value in first.items()} for number in range(count)]


def load(path: Path, **how: Any) -> cbs.Model:
    return cbs.load(str(path), arch=ARCH, options=OPTIONS, **how)


def is_of(model: cbs.Model, state: dict[str, Tensor]) -> bool:
    assert model.module is not None
    return all(torch.equal(value, state[key]) for key, value in model.module.state_dict().items())


class TestEntries:
    def test_averaged_weights_beside_trained_ones(self, tmp_path: Path) -> None:
        trained, averaged = states(2)
        path = tmp_path / "last.pth.tar"
        torch.save({"epoch": 3, "state_dict_ema": averaged, "state_dict": trained}, path)
        model = load(path)
        origin = model.provenance
        assert is_of(model, trained)
        assert (origin.source, origin.entry, origin.other_entries) == ("file", "state_dict", ("state_dict_ema",))
        assert origin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert origin.weights == (f"file {path}, entry state_dict (also there: state_dict_ema; --entry chooses)")
        chosen = load(path, entry="state_dict_ema")
        assert is_of(chosen, averaged)
        assert (chosen.provenance.entry, chosen.provenance.other_entries) == ("state_dict_ema", ("state_dict",))

    def test_names_nobody_expects(self, tmp_path: Path) -> None:
        student, teacher = states(2)
        path = tmp_path / "dino.pth"
        torch.save({"student": student, "teacher": teacher, "dino_loss": {"center": torch.zeros(1)}}, path)
        with pytest.raises(cbs.CBSurgeonError, match="CB-LOAD-25") as refused:
            load(path)
        assert f"student has {len(student)} tensors; teacher has {len(teacher)} tensors" in refused.value.why
        assert refused.value.do == "choose one: --entry student"
        assert is_of(load(path, entry="teacher"), teacher)
        with pytest.raises(cbs.CBSurgeonError, match="CB-FIT-02") as refused:
            load(path, entry="techer")
        assert "student, teacher, dino_loss" in refused.value.why

    def test_one_entry_of_any_name(self, tmp_path: Path) -> None:
        (only,) = states(1)
        torch.save({"backbone": only, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "a.pth")
        model = load(tmp_path / "a.pth")
        assert is_of(model, only) and model.provenance.entry == "backbone"


class TestTags:
    @pytest.fixture(autouse=True)
    def nothing_downloaded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        constants = pytest.importorskip("huggingface_hub.constants", reason="timm's weights lie on that hub")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(timm.models._hub, "_get_safe_alternatives", lambda name: iter(["model.safetensors"]))
        return tmp_path / "hub"

    def test_a_tag_without_its_weights_is_no_random_model(self) -> None:
        name = "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k"
        with pytest.raises(cbs.CBSurgeonError, match="CB-WEIGHTS-01") as refused:
            cbs.load(name)
        assert "--random-weights" in refused.value.do and "--pretrained" in refused.value.do
        model = cbs.load(name, random_weights=True, options={"depth": 1})
        assert model.provenance.source == "random"
        assert model.provenance.weights == "random"

    def test_weights_in_the_cache_are_used(self, nothing_downloaded: Path) -> None:
        from safetensors.torch import save_file

        name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
        wanted = timm.create_model(name)
        repository = nothing_downloaded / f"models--{wanted.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
        snapshot = repository / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("abc")
        save_file(wanted.state_dict(), snapshot / "model.safetensors")
        model = cbs.load(f"timm:{name}")
        assert is_of(model, wanted.state_dict())
        assert model.provenance.source == "pretrained"
        again = cbs.load(str(cbs.save(model, nothing_downloaded / "m.safetensors")))  # no weights are looked for now
        assert is_of(again, wanted.state_dict()) and again.provenance.source == "file"

    def test_who_takes_the_flags(self, tmp_path: Path) -> None:
        torch.save(states(1)[0], tmp_path / "a.pt")
        wrong: list[tuple[str, dict[str, Any]]] = [
            (str(tmp_path / "a.pt"), {"pretrained": True}),
            (str(tmp_path / "a.pt"), {"random_weights": True}),
            ("hf:ViTModel", {"pretrained": True}),
            (ARCH, {"pretrained": True, "random_weights": True}),
        ]
        for reference, how in wrong:
            with pytest.raises(cbs.CBSurgeonError, match="CB-WEIGHTS-02"):
                cbs.load(reference, **how)


def own() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(3, 2)), torch.zeros(2, 3)


def test_a_factory_and_the_arguments_of_its_checkpoint(tmp_path: Path) -> None:
    where = f"mod:{__name__}:own"
    assert cbs.load(where).provenance.weights == "as the factory makes them"
    torch.save({"state_dict": own()[0].state_dict(), "args": argparse.Namespace(width=2)}, tmp_path / "a.pt")
    note = cbs.load(str(tmp_path / "a.pt"), arch=where).provenance.note
    assert note.startswith("the arguments saved beside them were not used")
    torch.save({"state_dict": own()[0].state_dict()}, tmp_path / "b.pt")
    assert cbs.load(str(tmp_path / "b.pt"), arch=where).provenance.note == ""


class TestCommandLine:
    """The first line of every command that loads a model."""

    def lines(self, capsys: pytest.CaptureFixture[str], *command: str) -> list[str]:
        assert main([*command]) == 0
        return capsys.readouterr().out.splitlines()

    def test_first_lines(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        trained, averaged = states(2)
        path = str(tmp_path / "a.pt")
        torch.save({"state_dict": trained, "state_dict_ema": averaged}, path)
        said = f"weights: file {path}, entry state_dict (also there: state_dict_ema; --entry chooses)"
        built = f"weights: {ARCH}: random"
        file, out = [path, "--arch", ARCH, *FLAGS], str(tmp_path / "b.safetensors")
        assert self.lines(capsys, "inspect", ARCH, *FLAGS)[0] == built
        assert self.lines(capsys, "inspect", *file)[0] == said
        assert self.lines(capsys, "insert", *file, "-o", out)[0] == said
        assert self.lines(capsys, "remove", out, "-o", str(tmp_path / "c.pt"))[0] == f"weights: file {out}"
        assert self.lines(capsys, "audit", ARCH, *file)[:2] == [built, said]

    def test_json(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        path = tmp_path / "a.pt"
        torch.save({"state_dict": states(1)[0]}, path)
        document = json.loads("\n".join(self.lines(capsys, "audit", str(path), "--arch", ARCH, *FLAGS, "--json")))
        (weights,) = document["loaded"]
        assert (weights["source"], weights["entry"], weights["reference"]) == ("file", "state_dict", str(path))
        assert weights["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
