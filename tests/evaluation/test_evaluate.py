"""``evaluate``: the numbers of a plain loop, deployed files, planted faults, and clear errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

import cbsurgeon as cbs
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.errors import CheckFailed, InputFileError, UsageError
from cbsurgeon.models import Model
from tests.cli.running import run
from tests.data.pictures import save_classes
from tests.evaluation import digits

HERE: dict[str, Any] = {"workers": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits.save(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    cbs.export(digits.trained(), path)
    yield path


def by_hand() -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and labels of the 300 test digits, without any of the tool's data code."""
    start = digits.TRAINED
    with torch.no_grad():
        outputs = digits.trained().module(digits.tensors()[start : start + 300])  # type: ignore[misc]
    return outputs, torch.tensor(digits.pictures()[1][start : start + 300])


def test_numbers_are_those_of_a_plain_loop(data: Path) -> None:
    found = cbs.evaluate(digits.trained(), data=data, batch=7, **HERE)
    outputs, labels = by_hand()
    right = (outputs.argmax(1) == labels).double().mean()
    assert 0.85 < right < 1
    assert found.samples == 300 and found.metrics["a"]["top1"] == pytest.approx(float(right), abs=1e-12)
    loss = float(nn.functional.cross_entropy(outputs.double(), labels))
    assert found.metrics["a"]["nll"] == pytest.approx(loss, rel=1e-6)
    assert found and found.task == "classification" and not found.difference
    low, high = found.intervals["a"]["top1"]  # type: ignore[misc]
    assert low < right < high


def test_a_deployed_file_is_evaluated_as_it_was_trained(data: Path, onnx: Path) -> None:
    found = cbs.evaluate(digits.trained(), onnx, data=data, **HERE)
    assert found, found.findings
    assert found.preprocessing["a"] == found.preprocessing["b"] == digits.VIEW
    assert found.agreement is not None and found.agreement[0] == 1.0 and found.flips == 0
    assert found.difference["top1"].value == 0 and found.difference["top1"].p_value == 1.0
    # Equal on 300 images: the difference is at most 3.84 / 303.84.
    assert found.difference["top1"].ci95 == pytest.approx((-0.01264, 0.01264), abs=1e-5)
    assert cbs.evaluate(digits.trained(), onnx, data=data, claim=0.02, **HERE).claim.verdict == "true"  # type: ignore[union-attr]
    open_claim = cbs.evaluate(digits.trained(), onnx, data=data, claim=0.001, **HERE)
    assert open_claim and open_claim.claim is not None
    assert open_claim.claim.verdict == "inconclusive" and (open_claim.claim.needed or 0) > 3000


def test_the_command_line_and_the_json_contract(data: Path, onnx: Path) -> None:
    outcome = run("evaluate", onnx, onnx, "--data", data, "--workers", "0", "--json")
    assert outcome.code == 0, outcome.err
    document = outcome.document
    assert document["schema"] == "cbsurgeon.evaluate/1" and document["samples"] == 300
    assert document["preprocessing"]["size"] == [16, 16] and document["preprocessing"]["source"] == "digits"
    assert set(document["metrics"]) == {"a", "b"} and document["metrics"]["a"] == document["metrics"]["b"]
    assert set(document["difference"]) == {"top1", "top5", "nll", "ece"}
    assert document["difference"]["nll"]["value"] == 0 and document["difference"]["nll"]["ci95"] == [0, 0]
    text = run("evaluate", onnx, "--data", data, "--workers", "0", "--limit", "50").out
    assert "top-1" in text and "50 of 300 samples" in text and "crop 16x16" in text


class Wrapped(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Reversed(Wrapped):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x.flip(1))


class Exchanged(Wrapped):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x)[:, [0, 1, 2, 8, 4, 5, 6, 7, 3, 9]]


class NormalisedTwice(Wrapped):
    """Expects images from 0 to 1, as some exports do, but receives normalised images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (digits.VIEW.mean, digits.VIEW.std))
        return self.module((x - mean) / std)


class NormalisedByExchangedNumbers(Wrapped):
    """As an export that normalises inside the graph, and took the mean for the standard deviation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (digits.VIEW.mean, digits.VIEW.std))
        return self.module((x * std + mean - std) / mean)


class OfItsBatch(Wrapped):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module((x - x.mean(0, keepdim=True)) * 1.2)


class Overflowing(Wrapped):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.module(x)
        return torch.where(found[:, 3:4] > 2, found * float("inf"), found)


@pytest.mark.parametrize(
    ("wrapper", "kind", "said"),
    [
        (Reversed, "input", "channels in reverse order"),
        (Exchanged, "classes-exchanged", "B's output 3 is A's 8, B's output 8 is A's 3"),
        (NormalisedTwice, "input", "not normalised (values from 0 to 1)"),
        (NormalisedByExchangedNumbers, "input", "mean and standard deviation exchanged"),
        (OfItsBatch, "batch-dependent", "depend on its batch"),
        (Overflowing, "not-finite", "not finite for"),
        (digits.HalfBlind, "worse", "top-1 of B is worse by"),
    ],
)
def test_a_fault_inside_the_network_is_found_and_named(
    data: Path, wrapper: type[nn.Module], kind: str, said: str
) -> None:
    found = cbs.evaluate(digits.trained(), digits.trained(wrapper), data=data, **HERE)
    assert not found
    assert kind in {finding.kind for finding in found.findings}
    with pytest.raises(CheckFailed) as caught:
        found.raise_if_failed()
    assert caught.value.code == "CB-EVAL-06" and said in caught.value.why
    json.loads(found.to_json())


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("mean", {"mean": digits.VIEW.std, "std": digits.VIEW.mean}),
        ("std", {"std": (0.5, 0.5, 0.5)}),
        ("channels", {"channels": "bgr"}),
        ("resize_to", {"resize_to": (16, 16)}),
        ("resize", {"resize": "squash"}),
        ("interpolation", {"interpolation": "bicubic"}),
    ],
)
def test_another_preprocessing_in_the_deployed_file_is_found_and_named(
    data: Path, onnx: Path, tmp_path: Path, field: str, change: dict[str, Any]
) -> None:
    other = digits.restated(onnx, tmp_path / "m.onnx", replace(digits.VIEW, **change))
    found = cbs.evaluate(digits.trained(), other, data=data, **HERE)
    assert not found
    assert {"preprocessing"} <= {finding.kind for finding in found.findings}
    assert any(finding.text.startswith(f"{field} differs: A ") for finding in found.findings)
    assert found.to_dict()["preprocessing_b"][field] != found.to_dict()["preprocessing"][field]
    with pytest.raises(CheckFailed, match="cannot be compared as they are"):
        found.raise_if_failed()


def test_a_float16_file_that_overflows_is_found_and_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own export refuses such a file; other tools write it."""
    monkeypatch.setattr("cbsurgeon.deploy.typed.overflows", lambda *_: [])
    cbs.export(digits.large(), tmp_path / "m.onnx", dtype="float16")
    found = cbs.evaluate(digits.large(), tmp_path / "m.onnx", data=data, **HERE)
    assert not found and "not-finite" in {finding.kind for finding in found.findings}
    assert any("they overflow" in finding.text for finding in found.findings)
    json.loads(found.to_json())


class Counting(Wrapped):
    """Counts images that go through it."""

    images = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Counting.images += len(x)
        return self.module(x)


def test_each_model_runs_once_per_image(data: Path) -> None:
    model = digits.trained(Counting)
    Counting.images = 0
    cbs.evaluate(model, data=data, batch=32, **HERE)
    # Two for the example of the model, two of the first batch alone, to see whether a batch matters, and one batch of
    # tensors without memory, to estimate what it takes.
    assert Counting.images == 300 + 2 + 2 + 32


class NormalisesItself(Wrapped):
    """Takes values from 0 to 1, and normalises them inside."""

    mean, std = digits.VIEW.mean, digits.VIEW.std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (self.mean, self.std))
        return self.module((x - mean) / std)


class NormalisesWrongly(NormalisesItself):
    mean, std = digits.VIEW.std, digits.VIEW.mean


def test_a_network_that_normalises_itself_is_compared_by_its_outputs(data: Path) -> None:
    plain = replace(digits.VIEW, mean=(0.0,) * 3, std=(1.0,) * 3)
    found = cbs.evaluate(digits.trained(), digits.trained(NormalisesItself, plain), data=data, **HERE)
    assert found, found.findings
    assert found.agreement is not None and found.agreement[0] == 1.0
    found = cbs.evaluate(digits.trained(), digits.trained(NormalisesWrongly, plain), data=data, **HERE)
    said = [finding.text for finding in found.findings if finding.kind in ("preprocessing", "input")]
    assert not found and any("mean and standard deviation exchanged" in text for text in said)
    assert any(text.startswith("mean differs: A 0.4, 0.3, 0.2") for text in said)
    # The file says that it normalises, and does not.
    found = cbs.evaluate(digits.trained(), digits.trained(view=plain), data=data, **HERE)
    assert any("are normalised with A's mean" in finding.text for finding in found.findings)


def test_two_different_networks_have_no_fault(data: Path) -> None:
    class Sharper(Wrapped):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.module(x) * 1.1 + 0.05 * torch.sin(self.module(x))

    found = cbs.evaluate(digits.trained(), digits.trained(Sharper), data=data, **HERE)
    assert found and found.distance is not None and found.distance > 0.05


def test_a_false_claim_exits_1_with_a_message(data: Path) -> None:
    sides = ("mod:tests.evaluation.digits:network", "mod:tests.evaluation.digits:worse")
    outcome = run("evaluate", *sides, "--data", data, "--claim", "0.5%", "--workers", "0")
    assert outcome.code == 1 and "false with 95 % confidence" in " ".join(outcome.out.split())
    assert "[CB-EVAL-06]" in outcome.err and "top1 is worse than claimed" in outcome.err
    assert "flipped" in outcome.out and "label" in outcome.out


def test_images_that_flip_are_listed_with_small_pictures(data: Path) -> None:
    found = cbs.evaluate(digits.trained(), digits.trained(digits.HalfBlind), data=data, **HERE)
    assert found.flips == len(found.flipped) > 10
    flip = found.flipped[0]
    assert (data / flip.name).is_file() and flip.a != flip.b and flip.margin is not None and flip.margin > 0
    assert flip.thumbnail.startswith("data:image/jpeg;base64,") and not found.flipped[-1].thumbnail
    difference = found.difference["top1"]
    assert difference.gained is not None and difference.lost is not None
    assert difference.value == pytest.approx((difference.gained - difference.lost) / 300)
    assert difference.gained + difference.lost <= found.flips


def test_a_file_without_preprocessing_needs_flags(data: Path, onnx: Path, tmp_path: Path) -> None:
    digits.restated(onnx, tmp_path / "foreign.onnx", None)
    with pytest.raises(UsageError) as caught:
        cbs.evaluate(tmp_path / "foreign.onnx", data=data, **HERE)
    assert caught.value.code == "CB-DATA-01" and "foreign.onnx" in caught.value.where
    flags = ["--size", "18", "--crop", "16", "--interpolation", "bilinear", "--mean", "0.4,0.3,0.2"]
    flags += ["--std", "0.3,0.25,0.35"]
    words = ["evaluate", tmp_path / "foreign.onnx", "--data", data, "--workers", "0", "--json"]
    outcome = run(*words, *flags)
    expected = cbs.evaluate(digits.trained(), data=data, **HERE)
    assert outcome.document["metrics"]["a"]["top1"] == expected.metrics["a"]["top1"]


def test_a_file_of_one_batch_size_counts_no_image_twice(data: Path, tmp_path: Path) -> None:
    cbs.export(digits.trained(), tmp_path / "m.onnx", batch=8)
    found = cbs.evaluate(digits.trained(), tmp_path / "m.onnx", data=data, batch=20, **HERE)
    assert found and found.samples == 300 and found.agreement is not None and found.agreement[0] == 1.0


def test_without_labels_only_agreement_is_measured(tmp_path: Path, onnx: Path) -> None:
    drawn, _ = digits.pictures()
    for number in range(20):
        drawn[number].save(tmp_path / f"{number}.png")
    found = cbs.evaluate(digits.trained(), onnx, data=tmp_path, **HERE)
    assert found and found.metrics == {"a": {}, "b": {}} and found.agreement is not None
    assert any("accuracy was not measured" in remark for remark in found.remarks)
    from cbsurgeon.report import render_text

    assert "agreement" in render_text(found.to_dict())


def test_classes_of_model_and_dataset_must_fit(data: Path, tmp_path: Path) -> None:
    import shutil

    part = tmp_path / "part"
    for name in ("3", "8"):
        shutil.copytree(data / name, part / name)
    with pytest.raises(UsageError, match=r"2 classes in the dataset.*10 outputs of the model") as caught:
        cbs.evaluate(digits.trained(), data=part, **HERE)
    assert caught.value.code == "CB-EVAL-03"

    chosen = tmp_path / "classes.txt"
    chosen.write_text("3\n8\n")
    found = cbs.evaluate(digits.trained(), data=part, classes=chosen, per_class=True, **HERE)
    outputs, labels = by_hand()
    mine = (labels == 3) | (labels == 8)
    right = outputs[mine][:, [3, 8]].argmax(1) == (labels[mine] == 8)
    assert found.metrics["a"]["top1"] == pytest.approx(float(right.double().mean()))
    eights = labels[mine] == 8
    assert found.per_class[1]["a"] == pytest.approx(float(right[eights].double().mean()))

    chosen.write_bytes(b"\xef\xbb\xbf3\r\n8\r\n")  # as an editor of Windows writes it
    assert cbs.evaluate(digits.trained(), data=part, classes=chosen, **HERE).metrics == found.metrics

    for text in ("3\n3\n", "3\n10\n", "three\n", "3\n", "", "3\n" + "8" * 5000, "3\n-8\n"):
        chosen.write_text(text)
        with pytest.raises(InputFileError) as refused:
            cbs.evaluate(digits.trained(), data=part, classes=chosen, **HERE)
        assert refused.value.code == "CB-EVAL-04"


def test_labels_out_of_range_and_of_another_form(tmp_path: Path) -> None:
    inputs = digits.tensors()[:6].numpy()

    def refused(labels: Any, **how: Any) -> UsageError:
        numpy.savez(tmp_path / "x.npz", x=inputs, labels=labels)
        with pytest.raises(UsageError) as caught:
            cbs.evaluate(digits.trained(), data=tmp_path / "x.npz", **HERE, **how)
        return caught.value

    error = refused(numpy.array([0, 1, 2, 3, 4, 10]))
    assert error.code == "CB-EVAL-03" and "from 0 to 10" in error.why and "10 classes" in error.why
    assert refused(numpy.array([0, 1, 2, 3, 4, -1])).code == "CB-EVAL-03"
    assert refused(numpy.arange(6), task="segmentation").code == "CB-EVAL-02"
    assert refused(numpy.arange(6), output="features").code == "CB-EVAL-01"


def test_arrays_are_not_preprocessed(tmp_path: Path) -> None:
    start = digits.TRAINED
    inputs, labels = digits.tensors()[start : start + 60].numpy(), digits.pictures()[1][start : start + 60]
    numpy.savez(tmp_path / "x.npz", x=inputs, labels=numpy.array(labels))
    found = cbs.evaluate(digits.trained(view=None), data=tmp_path / "x.npz", **HERE)
    expected, targets = by_hand()
    right = (expected[:60].argmax(1) == targets[:60]).double().mean()
    assert found.metrics["a"]["top1"] == pytest.approx(float(right)) and not found.preprocessing
    assert found.to_dict()["preprocessing"] is None


def test_top5_of_a_few_classes_is_refused(tmp_path: Path) -> None:
    numpy.savez(tmp_path / "x.npz", x=digits.tensors()[:6].numpy(), labels=numpy.zeros(6, dtype=numpy.int64))
    chosen = tmp_path / "classes.txt"
    chosen.write_text("0\n1\n2\n")
    with pytest.raises(UsageError, match="at least 6 classes, and there are 3") as caught:
        cbs.evaluate(digits.trained(), data=tmp_path / "x.npz", metrics=("top5",), classes=chosen, **HERE)
    assert caught.value.code == "CB-EVAL-05" and caught.value.do == "leave it out: --metrics top1,nll,ece"


def test_damaged_images_are_counted_and_named(data: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(data, tmp_path / "d")
    (tmp_path / "d" / "4" / "bad.png").write_bytes(b"not an image")
    found = cbs.evaluate(digits.trained(), data=tmp_path / "d", **HERE)
    assert found.samples == 300 and found.skipped == 1 and list(found.problems) == ["4/bad.png"]
    with pytest.raises(InputFileError) as caught:
        cbs.evaluate(digits.trained(), data=tmp_path / "d", strict=True, **HERE)
    assert caught.value.code == "CB-DATA-11"
    for path in (tmp_path / "d").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputFileError) as none:
        cbs.evaluate(digits.trained(), data=tmp_path / "d", **HERE)
    assert none.value.code == "CB-DATA-14"


def margin(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return outputs.gather(1, targets[:, None])[:, 0] - outputs.mean(1)


def scalar(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return outputs.mean()


def test_a_metric_of_the_users_own(data: Path) -> None:
    found = cbs.evaluate(digits.trained(), data=data, metrics=("top1", f"mod:{__name__}:margin"), **HERE)
    outputs, labels = by_hand()
    assert found.metrics["a"]["margin"] == pytest.approx(float(margin(outputs, labels).mean()), rel=1e-5)
    for name in ("scalar", "absent"):
        with pytest.raises(UsageError) as caught:
            cbs.evaluate(digits.trained(), data=data, metrics=(f"mod:{__name__}:{name}",), **HERE)
        assert caught.value.code == "CB-EVAL-05"


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "pvt_v2_b0"])
def test_numbers_are_those_of_timms_own_pipeline(tmp_path: Path, name: str) -> None:
    import timm
    from timm.data import create_transform, resolve_data_config
    from torchvision.datasets import ImageFolder

    save_classes(tmp_path, count=24)
    small = {"img_size": 96, "depth": 2} if "deit" in name else {}
    model = cbs.load(f"timm:{name}", options={"num_classes": 3, **small}, input="3x96x96")
    module = model.module
    assert module is not None and isinstance(timm.__version__, str)
    config = resolve_data_config({"input_size": (3, 96, 96)}, model=module)
    dataset = ImageFolder(str(tmp_path), create_transform(**config, is_training=False))
    loader = torch.utils.data.DataLoader(dataset, batch_size=10)
    with torch.no_grad():
        outputs, labels = (torch.cat(parts) for parts in zip(*((module(x), y) for x, y in loader), strict=True))
    found = cbs.evaluate(model, data=tmp_path, batch=10, **HERE)
    assert found.metrics["a"]["top1"] == pytest.approx(float((outputs.argmax(1) == labels).double().mean()))
    loss = float(nn.functional.cross_entropy(outputs.double(), labels))
    assert found.metrics["a"]["nll"] == pytest.approx(loss, abs=1e-9)


def test_progress_gives_speed_and_time_left(data: Path) -> None:
    said: list[str] = []
    cbs.evaluate(digits.trained(), data=data, batch=10, progress=said.append, **HERE)
    assert any("of 300 images" in step and "images/s" in step and "left" in step for step in said)
    assert Terminal().quiet is False


def test_the_inputs_are_untouched(data: Path) -> None:
    model = digits.trained()
    before = {key: value.clone() for key, value in model.module.state_dict().items()}  # type: ignore[union-attr]
    cbs.evaluate(model, Model(model.module, model.example_inputs, preprocessing=model.preprocessing), data=data, **HERE)
    assert all(torch.equal(before[key], value) for key, value in model.module.state_dict().items())  # type: ignore[union-attr]
