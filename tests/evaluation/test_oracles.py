"""``evaluate`` on a thousand real images against the pipelines of timm, transformers and scikit-learn.

The images are photographs of the package conformal-clip-data, and cuts of scikit-image's, which have other shapes. They
are shared out among ten folders: what a network with random weights makes of them says nothing, but all numbers do.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

import cbsurgeon as cbs
from tests.data.pictures import photographs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

COUNT, CUTS, CLASSES, BATCH = 1000, 200, 10, 50
SUMMED = 1e-9
"""Metrics of equal outputs differ by the order of their sums in float64 only."""
LOSS = 2e-6
"""Ours is the mean of float32 losses; the libraries take logarithms of float64 probabilities."""

FAMILIES: dict[str, dict[str, Any]] = {
    "deit_tiny_patch16_224": {"depth": 2},
    "levit_128s": {},
    "xcit_nano_12_p16_224": {},
    "mixer_s32_224": {},
    "pvt_v2_b0": {},
    "dla46_c": {},  # bilinear
    "tf_efficientnetv2_b0": {},  # 192 pixels
    "vit_tiny_patch16_224": {"depth": 2},  # made to squash, and not to normalise
}
"""timm's models → options; between them they have every interpolation, crop and normalisation of small models."""

_seen: list[Tensor] = []


def seen(outputs: Tensor, targets: Tensor) -> Tensor:
    """A metric that keeps the outputs it is given."""
    _seen.append(outputs.clone())
    return outputs[:, 0] * 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = importlib.util.find_spec("conformal_clip_data")
    if package is None or package.origin is None:
        pytest.skip("no photographs: pip install conformal-clip-data")
    root = tmp_path_factory.mktemp("photographs")
    files = sorted(Path(package.origin).parent.rglob("*.jpg"))
    places = [root / f"class{number % CLASSES}" / f"{number:04}.jpg" for number in range(COUNT)]
    for place in places:
        place.parent.mkdir(exist_ok=True)
    photographed = COUNT - CUTS
    for number, place in enumerate(places[:photographed]):
        place.symlink_to(files[number * len(files) // photographed])
    for place, cut in zip(places[photographed:], photographs(CUTS), strict=True):
        cut.convert("RGB").save(place, quality=92)
    return root


def evaluated(model: cbs.Model, data: Path) -> tuple[cbs.Evaluation, Tensor]:
    """The evaluation, and the outputs it was made from."""
    _seen.clear()
    metrics = ("top1", "top5", "nll", "ece", f"mod:{__name__}:seen")
    found = cbs.evaluate(model, data=data, batch=BATCH, workers=0, metrics=metrics)
    assert found.samples == COUNT and found.skipped == 0
    return found, torch.cat(_seen)


def check(found: cbs.Evaluation, outputs: Tensor, labels: Tensor) -> None:
    """Metrics of outputs, by scikit-learn, scipy and by counting."""
    from scipy.special import log_softmax
    from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

    probabilities = outputs.double().softmax(1).numpy()
    classes, metrics = numpy.arange(CLASSES), found.metrics["a"]
    right = outputs.argmax(1) == labels
    assert metrics["top1"] == pytest.approx(accuracy_score(labels, outputs.argmax(1)), abs=SUMMED)
    assert metrics["top5"] == pytest.approx(
        top_k_accuracy_score(labels, probabilities, k=5, labels=classes), abs=SUMMED
    )
    losses = -log_softmax(outputs.double().numpy(), 1)[numpy.arange(len(labels)), labels.numpy()]
    assert metrics["nll"] == pytest.approx(losses.mean(), abs=LOSS, rel=LOSS)
    if probabilities.min() > numpy.finfo(numpy.float64).eps:  # scikit-learn clips smaller probabilities
        assert metrics["nll"] == pytest.approx(log_loss(labels, probabilities, labels=classes), abs=LOSS)
    assert metrics["ece"] == pytest.approx(calibration(probabilities.max(1), right.numpy()), abs=LOSS)


def calibration(confidence: Any, right: Any, bins: int = 15) -> float:
    """The expected calibration error from scikit-learn's reliability curve and numpy's histogram."""
    from sklearn.calibration import calibration_curve

    accuracy, mean = calibration_curve(right, confidence, n_bins=bins)
    counts, _ = numpy.histogram(confidence, numpy.linspace(0, 1, bins + 1))
    return float((numpy.abs(accuracy - mean) * counts[counts > 0]).sum() / len(right))


@pytest.mark.parametrize("name", FAMILIES)
def test_timm(data: Path, name: str) -> None:
    from timm.data import create_transform, resolve_data_config
    from torchvision.datasets import ImageFolder

    torch.manual_seed(0)
    model = cbs.load(f"timm:{name}", options={"num_classes": CLASSES, **FAMILIES[name]})
    module = model.module
    assert module is not None
    if name.startswith("vit"):
        module.pretrained_cfg.update(crop_mode="squash", interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)
        model = cbs.Model(module, model.example_inputs)
    config = resolve_data_config({}, model=module)
    dataset = ImageFolder(str(data), create_transform(**config, is_training=False))
    with torch.no_grad():
        pairs = [(module(inputs), labels) for inputs, labels in torch.utils.data.DataLoader(dataset, batch_size=BATCH)]
    outputs, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    found, ours = evaluated(model, data)
    assert torch.equal(ours, outputs)
    check(found, outputs, labels)


def _vision(name: str, **size: Any) -> tuple[Any, Any]:
    """A classifier of transformers with two small blocks, and its image processor as the library sets it up."""
    import transformers

    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = getattr(transformers, f"{name}Config")
    vision = {**small, "image_size": 224, **size}
    made = config(vision_config=vision, num_labels=CLASSES) if name in ("CLIP", "Siglip") else config(**vision)
    made.num_labels = CLASSES
    torch.manual_seed(0)
    module = getattr(transformers, f"{name}ForImageClassification")(made).eval()
    return module, getattr(transformers, f"{name}ImageProcessor")()


@pytest.mark.parametrize("name", ["ViT", "DeiT", "CLIP", "Siglip", "Beit"])
def test_transformers(data: Path, tmp_path: Path, name: str) -> None:
    from torchvision.datasets import ImageFolder

    module, processor = _vision(name)
    module.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    dataset = ImageFolder(str(data))
    outputs, labels = [], torch.tensor(dataset.targets)
    with torch.no_grad():
        for start in range(0, COUNT, BATCH):
            images = [dataset[place][0] for place in range(start, start + BATCH)]
            outputs.append(module(**processor(images, return_tensors="pt")).logits)
    found, ours = evaluated(cbs.load(f"hf:{tmp_path}"), data)
    assert torch.equal(ours, torch.cat(outputs))
    check(found, torch.cat(outputs), labels)
