"""Other tasks: several labels per image, and label maps, against scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import nn

import cbsurgeon as cbs
from cbsurgeon.errors import UsageError
from cbsurgeon.evaluation.metrics import metrics_of
from cbsurgeon.evaluation.task import classes_of
from cbsurgeon.models import Model
from cbsurgeon.models.preprocessing import cropped
from tests.data.pictures import photographs

HERE: dict[str, Any] = {"workers": 0}


def test_mean_average_precision_is_that_of_scikit_learn(tmp_path: Path) -> None:
    from sklearn.metrics import average_precision_score

    torch.manual_seed(3)
    module = nn.Linear(6, 4).eval()
    inputs, labels = torch.randn(80, 6), (torch.rand(80, 4) > 0.6).long()
    labels[:, 3] = 0  # a class that no sample has
    numpy.savez(tmp_path / "x.npz", input=inputs.numpy(), labels=labels.numpy())
    model = Model(module, (inputs[:2],))
    found = cbs.evaluate(model, model, data=tmp_path / "x.npz", **HERE)
    with torch.no_grad():
        expected = average_precision_score(labels[:, :3], module(inputs)[:, :3], average="macro")
    assert found.task == "multilabel" and found.metrics["a"]["map"] == pytest.approx(expected, abs=1e-6)
    assert found and found.agreement is not None and found.agreement[0] == 1


@pytest.mark.parametrize("dtype", ["float64", "float16", "bool", "int8", "uint64"])
def test_labels_of_several_classes_may_have_any_type(tmp_path: Path, dtype: str) -> None:
    inputs = numpy.random.default_rng(0).standard_normal((8, 6)).astype("float32")
    numpy.savez(tmp_path / "x.npz", input=inputs, labels=numpy.tile(numpy.eye(4), (2, 1)).astype(dtype))
    model = Model(nn.Linear(6, 4).eval(), (torch.zeros(2, 6),))
    assert 0 < cbs.evaluate(model, model, data=tmp_path / "x.npz", **HERE).metrics["a"]["map"] <= 1


@pytest.mark.parametrize("wrong", [0.5, 2, -1, numpy.nan, numpy.inf])
def test_a_label_that_is_neither_0_nor_1_is_refused(tmp_path: Path, wrong: float) -> None:
    """It would be rounded to a class that the sample has or does not have, and the mAP would mean nothing."""
    labels = numpy.tile(numpy.eye(4), (2, 1))
    labels[5, 2] = wrong
    numpy.savez(tmp_path / "x.npz", input=numpy.zeros((8, 6), "float32"), labels=labels)
    model = Model(nn.Linear(6, 4).eval(), (torch.zeros(2, 6),))
    with pytest.raises(UsageError, match=f"a label has the number {float(wrong)}") as caught:
        cbs.evaluate(model, model, data=tmp_path / "x.npz", **HERE)
    assert caught.value.code == "CB-EVAL-03"


class Colours(nn.Module):
    """A class for every pixel, at a quarter of the resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 4, 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)


def test_label_maps_are_judged_pixel_by_pixel(tmp_path: Path) -> None:
    from sklearn.metrics import accuracy_score, jaccard_score

    torch.manual_seed(1)
    module = Colours().eval()
    generator = numpy.random.default_rng(0)
    for number, picture in enumerate(photographs(6)):
        for name in ("images", "labels"):
            (tmp_path / name).mkdir(exist_ok=True)
        picture.resize((48, 40)).save(tmp_path / "images" / f"{number}.png")
        labels = generator.integers(0, 3, (40, 48)).astype(numpy.uint8)
        labels[:5] = 255  # pixels without a label
        Image.fromarray(labels).save(tmp_path / "labels" / f"{number}.png")
    view = cropped((40, 48), 1.0, resize="none", interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
    model = Model(module, (torch.zeros(2, 3, 40, 48),), preprocessing=view)
    found = cbs.evaluate(model, model, data=tmp_path, **HERE)

    truth, said = [], []
    for number in range(6):
        pixels = numpy.asarray(Image.open(tmp_path / "images" / f"{number}.png")).astype(numpy.float32) / 255
        image = torch.from_numpy((pixels - 0.5) / 0.5).permute(2, 0, 1)[None]
        with torch.no_grad():
            maps = nn.functional.interpolate(module(image), (40, 48), mode="bilinear", align_corners=False)
        labels = numpy.asarray(Image.open(tmp_path / "labels" / f"{number}.png"))
        truth.append(labels[labels != 255])
        said.append(maps.argmax(1)[0].numpy()[labels != 255])
    truth_, said_ = numpy.concatenate(truth), numpy.concatenate(said)
    assert found.task == "segmentation"
    assert found.metrics["a"]["miou"] == pytest.approx(jaccard_score(truth_, said_, average="macro"), abs=1e-9)
    assert found.metrics["a"]["pixel_accuracy"] == pytest.approx(accuracy_score(truth_, said_), abs=1e-9)
    assert found.difference["miou"].value == 0 and found.agreement is not None and found.agreement[0] == 1


def test_the_first_metric_of_each_task() -> None:
    assert [metrics_of(task, (), 9)[0].name for task in ("classification", "multilabel", "segmentation")] == [
        "top1",
        "map",
        "miou",
    ]


@pytest.mark.parametrize(
    ("named", "why", "do"),
    [
        (("train", "val"), "(train, val)", "--data data/val"),
        (("test", "train"), "(test, train)", "--data data/test"),
        (("cat", "dog", "owl", "pig"), "(cat, dog, owl ...)", "--classes FILE"),
    ],
)
def test_parts_of_a_dataset_are_not_classes(named: tuple[str, ...], why: str, do: str) -> None:
    with pytest.raises(UsageError) as caught:
        classes_of(10, None, named, "data/")
    assert why in caught.value.why and do in caught.value.do
