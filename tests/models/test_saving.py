"""Models → files: what is in them, what is refused, and that memory stays near the weights."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cbsurgeon import models
from cbsurgeon.errors import CBSurgeonError, OutputFileError, UsageError
from cbsurgeon.models import Model, Provenance
from cbsurgeon.models.files.metadata import Metadata, read
from cbsurgeon.version import __version__

ROOT = Path(__file__).parents[2]


def linear(**origin: object) -> Model:
    return Model(nn.Linear(3, 2), (torch.zeros(2, 3),), Provenance(**origin))  # type: ignore[arg-type]


def test_the_document_is_in_the_safetensors_header(tmp_path: Path) -> None:
    from safetensors import safe_open

    model = replace(linear(architecture="timm:x", architecture_options={"b": 1, "a": 2}), recipes=({"op": "cb"},))
    path = models.save(model, tmp_path / "m.safetensors")
    with safe_open(path, framework="pt") as opened:
        notes = opened.metadata()
    assert notes["format"] == "pt"
    assert json.loads(notes["cbsurgeon"]) == {
        "schema": "cbsurgeon.checkpoint/1",
        "architecture": "timm:x",
        "architecture_options": {"a": 2, "b": 1},
        "recipes": [{"op": "cb"}],
        "aliases": {},
        "version": __version__,
    }


def test_a_pt_file_is_plain_and_safe_for_anyone(tmp_path: Path) -> None:
    model = linear(architecture="timm:deit_tiny_patch16_224")
    path = models.save(model, tmp_path / "m.pt")
    payload = torch.load(path, weights_only=True)
    assert payload["arch"] == "deit_tiny_patch16_224"
    assert json.loads(payload["cbsurgeon"])["schema"] == "cbsurgeon.checkpoint/1"
    nn.Linear(3, 2).load_state_dict(payload["state_dict"], strict=True)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_the_same_model_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    model = linear()
    # The name is part of a .pt archive, so both files carry the same one.
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        models.save(model, tmp_path / folder / f"m.{suffix}")
    one, other = (models.open_checkpoint(tmp_path / folder / f"m.{suffix}") for folder in ("one", "other"))
    assert all(torch.equal(one.state_dict[key], other.state_dict[key]) for key in one.state_dict)
    if suffix == "safetensors":
        assert one.sha256 == other.sha256


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_views_strides_and_odd_types_survive(tmp_path: Path, suffix: str) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            base = torch.randn(64, 64)
            self.register_buffer("view", base[:2, 1:4])
            self.register_buffer("turned", torch.randn(3, 5).t())
            self.register_buffer("count", torch.tensor(7))
            self.register_buffer("empty", torch.zeros(0, 3))
            self.register_buffer("flag", torch.tensor([True, False]))
            self.register_buffer("eighth", torch.randn(4).to(torch.float8_e4m3fn))
            self.register_buffer("strange", torch.tensor([float("nan"), float("inf"), -0.0]))
            self.register_buffer("wide", torch.zeros(1).expand(3))
            self.register_buffer("complex", torch.tensor([1 + 2j]))

    module = Odd()
    path = models.save(Model(module), tmp_path / f"m.{suffix}")
    state = models.open_checkpoint(path).state_dict
    for key, value in module.state_dict().items():
        assert models.saving.same_bytes(value, state[key])
    # A view of 6 numbers does not drag its storage of 4096 along.
    assert path.stat().st_size < 64 * 64 * 4


@pytest.mark.parametrize("name", ["m", "m.bin", "m.onnx", "m.tar"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="CB-SAVE-01"):
        models.save(linear(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_program_file_needs_a_program(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="capture the model first"):
        models.save(linear(), tmp_path / "m.pt2")


def test_a_program_alone_can_be_saved_as_weights(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    program = torch.export.export(module, (torch.zeros(2, 3),))
    path = models.save(Model(None, program=program), tmp_path / "m.safetensors")
    state = models.open_checkpoint(path).state_dict
    assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())


class Extra(nn.Linear):
    def get_extra_state(self) -> object:
        return {"a": 1}

    def set_extra_state(self, state: object) -> None:
        pass


def unsaveable() -> list[tuple[str, nn.Module]]:
    sparse = nn.Module()
    sparse.register_buffer("s", torch.eye(3).to_sparse())
    return [
        ("meta", nn.Linear(2, 2, device="meta")),
        ("sparse", sparse),
        ("not a tensor", Extra(2, 2)),
        ("no tensor to store", nn.Module()),
    ]


@pytest.mark.parametrize(("word", "module"), unsaveable())
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_values_that_no_checkpoint_can_hold_are_refused(
    tmp_path: Path, word: str, module: nn.Module, suffix: str
) -> None:
    with pytest.raises(OutputFileError) as caught:
        models.save(Model(module), tmp_path / f"m.{suffix}")
    assert caught.value.code == "CB-SAVE-02"
    assert word in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_text("precious")
    with pytest.raises(OutputFileError, match="CB-OUT-01"):
        models.save(linear(), path)
    assert path.read_text() == "precious"
    models.save(linear(), path, force=True)
    assert models.open_checkpoint(path).state_dict


def test_a_file_is_never_written_onto_its_input(tmp_path: Path) -> None:
    path = models.save(linear(), tmp_path / "m.safetensors")
    before = path.read_bytes()
    with pytest.raises(OutputFileError, match="CB-OUT-03"):
        models.save(linear(), path, force=True, inputs=[path])
    loaded = models.load(
        str(path), arch="mod:torch.nn:Linear", options={"in_features": 3, "out_features": 2}, input="3"
    )
    with pytest.raises(OutputFileError, match="CB-OUT-03"):
        models.save(loaded, path, force=True)
    assert path.read_bytes() == before


def test_a_writer_that_lies_is_caught_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    honest = safetensors.torch.save_file

    def lying(tensors: dict[str, torch.Tensor], *args: object, **kwargs: object) -> None:
        honest({key: value + 1 for key, value in tensors.items()}, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(safetensors.torch, "save_file", lying)
    with pytest.raises(OutputFileError, match="CB-SAVE-03"):
        models.save(linear(), tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "CB-META-01"),
        ("", "CB-META-01"),
        ("[]", "CB-META-01"),
        ("{}", "CB-META-01"),
        ('{"schema":"cbsurgeon.checkpoint/2"}', "CB-META-02"),
        ('{"schema":"cbsurgeon.checkpoint/1","schema":"cbsurgeon.checkpoint/1"}', "CB-META-01"),
        ('{"schema":"cbsurgeon.checkpoint/1","architecture":3}', "CB-META-01"),
        ('{"schema":"cbsurgeon.checkpoint/1","recipes":{}}', "CB-META-01"),
        ('{"schema":"cbsurgeon.checkpoint/1","recipes":[1]}', "CB-META-01"),
        ('{"schema":"cbsurgeon.checkpoint/1","aliases":{"a":1}}', "CB-META-01"),
        ('{"schema":"cbsurgeon.checkpoint/1","architecture_options":{"a":NaN}}', "CB-META-01"),
        ("[" * 100_000, "CB-META-01"),
        ('{"schema":' + "[" * 40 + "]" * 40 + "}", "CB-META-01"),
        ('{"schema":"' + "a" * (9 << 20) + '"}', "CB-META-01"),
    ],
)
def test_a_document_is_trusted_with_nothing(text: object, code: str) -> None:
    with pytest.raises(CBSurgeonError) as caught:
        read(text, "here")
    assert caught.value.code == code


def test_the_document_survives_the_round_trip() -> None:
    document = Metadata("timm:x", {"a": [1, {"b": None}]}, ({"op": "cb"},), {"b": "a"})
    assert read(document.to_json(), "here") == document
    assert document.to_json() == Metadata("timm:x", {"a": [1, {"b": None}]}, ({"op": "cb"},), {"b": "a"}).to_json()


MEMORY = """
import resource, sys, torch
from torch import nn
from cbsurgeon import models
from cbsurgeon.models import Model
import safetensors.torch
models.save(Model(nn.Linear(8, 8)), sys.argv[1] + "/warm." + sys.argv[2])
module = nn.Linear(8192, 8192, bias=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
models.save(Model(module), sys.argv[1] + "/m." + sys.argv[2])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
WEIGHTS = 8192 * 8192 * 4
EXTRA_COPIES = 1.3
"""Writing needs no copy; the check maps the file back, whose pages count as resident while they are compared (one
copy's worth, reclaimable). A writer that copied the weights as well would need two."""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts kilobytes on Linux only")
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_memory_stays_near_the_weights(tmp_path: Path, suffix: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), suffix], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert resource.getpagesize() > 0
    assert int(done.stdout) < EXTRA_COPIES * WEIGHTS
