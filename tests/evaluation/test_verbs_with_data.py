"""``verify --data`` and ``ship --data``: parity and accuracy on real images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import cbsurgeon as cbs
from cbsurgeon.errors import InputFileError, SurgeryError, UsageError
from tests.cli.running import SMALL, run
from tests.evaluation import digits


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits.save(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    cbs.export(digits.trained(), path)
    return path


def test_verify_compares_real_images(data: Path, onnx: Path) -> None:
    outcome = run("verify", "mod:tests.evaluation.digits:network", onnx, "--data", data, "--json")
    assert outcome.code == 0, outcome.err
    document = outcome.document
    rows = [row for row in document["rows"] if row["inputs"] == "images"]
    assert len(rows) == 1 and rows[0]["ok"] and rows[0]["top1"] == 1.0
    found = document["images"]
    assert (found["samples"], found["top1"], found["largest_margin_lost"]) == (128, 1.0, 0.0)
    assert "same class for 100.00 %" in " ".join(cbs_text(document).split())


def cbs_text(document: dict[str, object]) -> str:
    from cbsurgeon.report import render_text

    return render_text(document)


def test_verify_counts_the_classes_that_change(data: Path, onnx: Path) -> None:
    found = cbs.verify(digits.trained(digits.HalfBlind), onnx, data=data)
    assert not found and found.images is not None
    assert 0.3 < found.images["top1"] < 0.99 and found.images["largest_margin_lost"] > 0


def test_verify_does_not_mix_preprocessings(data: Path, onnx: Path, tmp_path: Path) -> None:
    other = digits.restated(onnx, tmp_path / "m.onnx", replace(digits.VIEW, interpolation="bicubic"))
    with pytest.raises(UsageError, match="interpolation: bilinear and bicubic") as caught:
        cbs.verify(digits.trained(), other, data=data)
    assert caught.value.code == "CB-VERIFY-06"
    with pytest.raises(UsageError) as unknown:
        cbs.verify(digits.trained(view=None), digits.restated(onnx, tmp_path / "n.onnx", None), data=data)
    assert unknown.value.code == "CB-DATA-01"


def test_export_compares_real_images_too(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    words = ["export", "mod:tests.evaluation.digits:network", "-o", file, "--dtype", "float16", "--data", data]
    outcome = run(*words, "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.document["verify"]["images"]
    # What evaluate says of the same 128 images, which it chooses alike.
    whole = cbs.evaluate(digits.trained(), file, data=data, limit=128, workers=0)
    assert (found["samples"], found["data"]) == (128, str(data))
    assert whole.agreement is not None and found["top1"] == whole.agreement[0]
    assert found["largest_margin_lost"] == max([0.0, *(flip.margin or 0.0 for flip in whole.flipped)])
    assert "same class for" in " ".join(run(*words, "--force").out.split())


@pytest.mark.parametrize("words", [("m.onnx", "--no-verify"), ("m.pt2",)])
def test_export_refuses_images_if_it_does_not_compare(data: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    name, *flags = words
    outcome = run("export", "mod:tests.evaluation.digits:network", "-o", tmp_path / name, "--data", data, *flags)
    assert outcome.code == 2 and "[CB-VERIFY-07]" in outcome.err and not list(tmp_path.iterdir())


def test_a_float16_export_that_overflows_stays_unverified(data: Path, tmp_path: Path) -> None:
    outcome = run(
        "export", "mod:tests.evaluation.digits:large", "-o", tmp_path / "m.onnx", "--dtype", "float16", "--data", data
    )
    assert outcome.code == 1 and "[CB-VERIFY-01]" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["m.unverified.onnx"]


@pytest.mark.wide
def test_ship_measures_accuracy_if_data_are_given(data: Path, tmp_path: Path) -> None:
    model = cbs.load("timm:deit_tiny_patch16_224", options=SMALL)
    how = {"engine": False, "bench_budget": 0, "limit": 40, "workers": 0}
    with pytest.raises(InputFileError):
        cbs.ship(model, tmp_path / "s", data=tmp_path / "absent", **how)
    shipment = cbs.ship(model, tmp_path / "s", data=data, **how)
    assert shipment and shipment.evaluation is not None and shipment.evaluation.samples == 40
    document = json.loads((tmp_path / "s" / "report.json").read_text())
    (found,) = (part for part in document["documents"] if part["schema"] == "cbsurgeon.evaluate/1")
    assert found["sides"]["b"]["name"] == str(tmp_path / "s" / "model.onnx") and found["agreement"]["value"] == 1.0
    assert found["preprocessing"]["size"] == [64, 64] and "accuracy" not in document["left_out"]
    page = (tmp_path / "s" / "report.html").read_text()
    assert "<h2>Accuracy</h2>" in page
    assert "accuracy" in cbs_text(document) and "40 images" in cbs_text(document)


def test_the_preprocessing_given_to_ship_is_stored_in_its_files(data: Path, tmp_path: Path) -> None:
    model = cbs.load("timm:deit_tiny_patch16_224", options=SMALL)
    how = {"engine": False, "bench_budget": 0, "limit": 10, "workers": 0}
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    shipment = cbs.ship(model, tmp_path / "s", data=data, **how, mean=mean, std=std, crop=1.0)
    (document,) = (part for part in shipment.document["documents"] if part["schema"] == "cbsurgeon.evaluate/1")
    again = run("evaluate", tmp_path / "s" / "model.onnx", "--data", data, "--limit", "10", "--workers", "0", "--json")
    stored = cbs.load(tmp_path / "s" / "model.safetensors").preprocessing
    assert again.code == 0 and stored is not None
    for found in (document["preprocessing"], again.document["preprocessing"], stored.to_dict()):
        assert (found["mean"], found["std"], found["size"]) == (list(mean), list(std), [64, 64])


def test_a_choice_given_to_ship_is_never_ignored(data: Path, tmp_path: Path) -> None:
    """A model with CB_S at the End is shipped as it is; CB at the End, even if that is the default, is refused."""
    edited, out = tmp_path / "s.safetensors", tmp_path / "out"
    small = ["--model-option", "img_size=64", "--model-option", "depth=2"]
    assert (
        run("insert", "timm:deit_tiny_patch16_224", *small, "--op", "cb_s", "--layers", "all", "-o", edited).code == 0
    )
    brief = ["--no-engine", "--bench-budget", "0", "-o", out]
    refused = run("ship", edited, "--op", "cb", *brief)
    assert refused.code == 2 and "CB-SURGERY-03" in refused.err and not out.exists()
    with pytest.raises(SurgeryError, match="CB-SURGERY-03"):
        cbs.ship(cbs.load(edited), out, op="cb", engine=False, bench_budget=0)
    assert run("ship", edited, *brief).code == 0
    assert json.loads((out / "recipe.json").read_text())["op"] == "cb_s"
