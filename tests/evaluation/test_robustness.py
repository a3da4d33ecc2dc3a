"""Corruptions and attacks: their definitions by other means, and the numbers of a plain loop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

import cbsurgeon as cbs
from cbsurgeon.data.corruptions import blur, generators, noise, occluded, shot
from cbsurgeon.errors import UsageError
from cbsurgeon.evaluation.robustness import stresses
from cbsurgeon.evaluation.robustness.attacks import attacked
from tests.cli.running import run
from tests.evaluation import digits

HERE: dict[str, Any] = {"workers": 0}
MEAN, STD = (torch.tensor(numbers)[:, None, None] for numbers in (digits.VIEW.mean, digits.VIEW.std))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits.save(tmp_path_factory.mktemp("digits"), 120)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    start = digits.TRAINED
    return digits.tensors()[start : start + 120], torch.tensor(digits.pictures()[1][start : start + 120])


def module() -> nn.Module:
    found = digits.trained().module
    assert found is not None
    return found


def accuracy(images: torch.Tensor) -> float:
    with torch.no_grad():
        return float((module()(images).argmax(1) == inputs()[1]).double().mean())


def by_hand(images: torch.Tensor, labels: torch.Tensor, epsilon: float) -> torch.Tensor:
    """``x + eps sign(gradient of the loss)`` in pixels from 0 to 1, written out."""
    pixels = (images * STD + MEAN).clamp(0, 1).requires_grad_()
    nn.functional.cross_entropy(module()((pixels - MEAN) / STD), labels, reduction="sum").backward()
    assert pixels.grad is not None
    return (pixels + epsilon * pixels.grad.sign()).clamp(0, 1).detach()


def test_fgsm_is_the_formula() -> None:
    images, labels = inputs()
    pixels = (images * STD + MEAN).clamp(0, 1)
    found = attacked("fgsm", 4, pixels, labels, lambda x: module()((x - MEAN) / STD))
    assert torch.equal(found, by_hand(images, labels, 4 / 255))
    assert float((found - pixels).abs().max()) == pytest.approx(4 / 255, abs=1e-6)


def test_a_tiny_gradient_still_attacks() -> None:
    """captum takes a gradient below 1e-6 for zero, which in a deep network would switch the attack off."""
    images, labels = inputs()
    pixels = (images * STD + MEAN).clamp(0, 1)
    scaled = attacked("fgsm", 4, pixels, labels, lambda x: 1e-9 * module()((x - MEAN) / STD))
    assert float(((scaled - pixels).abs() > 3 / 255).double().mean()) > 0.5


def test_pgd_stays_in_its_ball_and_is_no_weaker_than_fgsm() -> None:
    images, labels = inputs()
    pixels = (images * STD + MEAN).clamp(0, 1)

    def logits(x: torch.Tensor) -> torch.Tensor:
        return module()((x - MEAN) / STD)

    once, often = (attacked(name, 4, pixels, labels, logits) for name in ("fgsm", "pgd"))
    assert float((often - pixels).abs().max()) <= 4 / 255 + 1e-6
    assert float(often.min()) >= 0 and float(often.max()) <= 1
    loss = [float(nn.functional.cross_entropy(logits(x), labels)) for x in (pixels, once, often)]
    assert loss[0] < loss[1] <= loss[2] * 1.01


def test_occlusion_is_the_papers_centre_patch() -> None:
    images = torch.ones(1, 3, 224, 224)
    found = occluded(images, 0.5)
    assert found[0, 0].sum() == 224 * 224 - 112 * 112
    assert (found[..., 56:168, 56:168] == 0).all() and images.all()


def test_noise_has_its_variance_and_belongs_to_the_image() -> None:
    pixels = torch.full((6, 3, 64, 64), 0.5)
    numbers = torch.arange(6)
    drawn = noise(pixels, 10, generators(1, numbers)) - pixels
    assert float(drawn.std()) == pytest.approx(10 / 255, rel=0.02)
    assert torch.equal(noise(pixels[4:], 10, generators(1, numbers[4:])) - pixels[4:], drawn[4:])
    assert not torch.equal(noise(pixels, 10, generators(2, numbers)) - pixels, drawn)
    assert not torch.equal(drawn[0], drawn[1])


def test_shot_noise_has_the_variance_of_a_poisson_number() -> None:
    pixels = torch.full((4, 3, 64, 64), 0.4)
    drawn = shot(pixels, 60, generators(0, torch.arange(4)))
    assert float(drawn.mean()) == pytest.approx(0.4, abs=0.003)
    assert float(drawn.std()) == pytest.approx(math.sqrt(0.4 / 60), rel=0.02)


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_blur_is_a_gaussian_filter(sigma: float) -> None:
    from scipy.ndimage import gaussian_filter

    pixels = torch.rand(1, 3, 40, 50)
    expected = numpy.stack([gaussian_filter(channel, sigma, mode="mirror") for channel in pixels[0].double().numpy()])
    assert numpy.abs(blur(pixels, sigma, ())[0].numpy() - expected).max() < 1e-5


def test_names_and_strengths() -> None:
    assert [one.key for one in stresses(("noise", "blur=3", "fgsm"), 4)] == ["noise=5", "noise=10", "blur=3", "fgsm=1"]
    assert [one.seeds for one in stresses(("noise", "fgsm"), 4)] == [4, 4, 1]
    assert stresses(("fgsm=2",), 1)[0].words == "FGSM, epsilon 2/255"
    for word in ("nose", "noise=", "noise=-1", "noise=x", "occlusion=2", "fgsm=nan"):
        with pytest.raises(UsageError) as caught:
            stresses((word,), 5)
        assert caught.value.code == "CB-EVAL-07"


def test_numbers_are_those_of_a_plain_loop(data: Path) -> None:
    found = cbs.evaluate(
        digits.trained(), data=data, robust=("occlusion=0.4", "fgsm=4", "noise=30"), seeds=3, batch=50, **HERE
    )
    rows = {row["name"]: row for row in found.robust}
    images, labels = inputs()
    patched = images.clone()
    patched[..., 5:11, 5:11] = 0
    assert rows["occlusion"]["metrics"]["a"]["top1"] == pytest.approx(accuracy(patched))
    moved = (by_hand(images, labels, 4 / 255) - MEAN) / STD
    assert rows["fgsm"]["metrics"]["a"]["top1"] == pytest.approx(accuracy(moved), abs=1e-9)
    assert rows["fgsm"]["metrics"]["a"]["top1"] < found.metrics["a"]["top1"]  # type: ignore[operator]
    low, high = rows["noise"]["over_seeds"]["a"]["top1"]
    assert low <= rows["noise"]["metrics"]["a"]["top1"] <= high
    assert rows["noise"]["words"] == "Gaussian noise, sigma 30 of 255" and rows["noise"]["seeds"] == 3


def test_corruptions_do_not_depend_on_the_batch(data: Path) -> None:
    one, two = (
        cbs.evaluate(digits.trained(), data=data, robust=("noise=30", "shot", "blur=1"), seeds=2, batch=size, **HERE)
        for size in (7, 40)
    )
    assert [row["metrics"]["a"]["top1"] for row in one.robust] == [row["metrics"]["a"]["top1"] for row in two.robust]


def test_a_deployed_file_is_attacked_through_its_model(data: Path, tmp_path: Path) -> None:
    cbs.export(digits.trained(), tmp_path / "m.onnx")
    found = cbs.evaluate(digits.trained(), tmp_path / "m.onnx", data=data, robust=("fgsm=4", "noise"), seeds=2, **HERE)
    row = found.robust[0]
    assert row["metrics"]["a"]["top1"] == row["metrics"]["b"]["top1"] < found.metrics["a"]["top1"]
    assert row["difference"]["top1"]["value"] == 0 and len(found.robust) == 3
    assert any("attacks on B use the gradient of A" in remark for remark in found.remarks)
    with pytest.raises(UsageError) as caught:
        cbs.evaluate(tmp_path / "m.onnx", data=data, robust=("fgsm",), **HERE)
    assert caught.value.code == "CB-EVAL-08" and "fgsm is not possible" in caught.value.what
    assert "onnxruntime, which has no gradients" in caught.value.why


def test_the_command_line_shows_what_was_done(data: Path) -> None:
    words = ["evaluate", "mod:tests.evaluation.digits:network", "--data", data, "--workers", "0", "--limit", "40"]
    outcome = run(*words, "--robust", "occlusion,fgsm=2")
    assert outcome.code == 0, outcome.err
    assert "FGSM, epsilon 2/255" in outcome.out and "centred patch of 0.5 of height and" in outcome.out
    assert run(*words, "--robust", "fog").code == 2
