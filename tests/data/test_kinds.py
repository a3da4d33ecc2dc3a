"""Datasets of other packages give the same images and labels as a folder."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from cbsurgeon.data import open_data
from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, cropped
from tests.data.pictures import noise, photographs

LOOK: dict[str, Any] = {"interpolation": "bilinear", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
SMALL = cropped((32, 32), 0.875, **LOOK)


def folder(root: Path, pictures: list[Image.Image], labels: list[int]) -> Path:
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        (root / "abc"[label]).mkdir(parents=True, exist_ok=True)
        picture.save(root / "abc"[label] / f"{number:03}.png")
    return root


def contents(spec: str | Path, **how: Any) -> list[tuple[int, torch.Tensor]]:
    """Labels and inputs, in an order that does not depend on names."""
    found = []
    for batch in open_data(spec, SMALL, **{"workers": 0, "batch": 3, **how}):
        assert isinstance(batch.inputs, torch.Tensor) and batch.labels is not None
        found += list(zip(batch.labels.tolist(), batch.inputs, strict=True))
    return sorted(found, key=lambda one: (one[0], float(one[1].sum())))


def same(one: list[tuple[int, torch.Tensor]], other: list[tuple[int, torch.Tensor]]) -> bool:
    return len(one) == len(other) and all(
        first[0] == second[0] and torch.equal(first[1], second[1]) for first, second in zip(one, other, strict=True)
    )


def encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def shard(path: Path, pictures: list[Image.Image], labels: list[int] | None, start: int = 0) -> None:
    with tarfile.open(path, "w") as archive:
        for number, picture in enumerate(pictures):
            parts = {"png": encoded(picture)} | ({} if labels is None else {"cls": str(labels[number]).encode()})
            for suffix, payload in parts.items():
                about = tarfile.TarInfo(f"{start + number:05}.{suffix}")
                about.size = len(payload)
                archive.addfile(about, io.BytesIO(payload))


@pytest.fixture
def pictures() -> tuple[list[Image.Image], list[int]]:
    return photographs(10), [0, 2, 1, 1, 0, 2, 2, 0, 1, 0]


def test_a_folder_saved_by_datasets(tmp_path: Path, pictures: tuple[list[Image.Image], list[int]]) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is in the extra 'data', not in 'dev'")
    images, labels = pictures
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    table = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    table.save_to_disk(str(tmp_path / "one"))
    expected = contents(folder(tmp_path / "folder", images, labels))
    assert same(contents(f"hf:{tmp_path / 'one'}"), expected)
    data = open_data(f"hf:{tmp_path / 'one'}", SMALL)
    assert data.source.classes == ("a", "b", "c") and data.source.count == 10

    datasets.DatasetDict({"train": table.select([0]), "test": table}).save_to_disk(str(tmp_path / "two"))
    assert same(contents(f"hf:{tmp_path / 'two'}"), expected)
    assert len(contents(f"hf:{tmp_path / 'two'}:train")) == 1
    for reference in ("absent", "two:other"):
        with pytest.raises(InputFileError) as caught:
            open_data(f"hf:{tmp_path / reference}", SMALL)
        assert caught.value.code == "CB-DATA-09"
    datasets.Dataset.from_dict({"x": [1, 2]}).save_to_disk(str(tmp_path / "numbers"))
    with pytest.raises(InputFileError, match="0 image columns"):
        open_data(f"hf:{tmp_path / 'numbers'}", SMALL)


def test_webdataset_shards(tmp_path: Path, pictures: tuple[list[Image.Image], list[int]]) -> None:
    pytest.importorskip("webdataset", reason="webdataset is in the extra 'data', not in 'dev'")
    images, labels = pictures
    for number, (start, end) in enumerate(((0, 4), (4, 5), (5, 10))):
        shard(tmp_path / f"s-{number}.tar", images[start:end], labels[start:end], start)
    expected = contents(folder(tmp_path / "folder", images, labels))
    for pattern in ("s-{0..2}.tar", "s-*.tar"):
        assert same(contents(f"wds:{tmp_path / pattern}"), expected)
    shares = [open_data(f"wds:{tmp_path / 's-*.tar'}", SMALL, workers=0, share=(rank, 2)) for rank in range(2)]
    numbers = [int(index) for share in shares for batch in share for index in batch.indices]
    assert len(numbers) == len(set(numbers)) == 10
    assert len(contents(f"wds:{tmp_path / 's-*.tar'}", limit=6)) == 6

    whole = (tmp_path / "s-2.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    shard(tmp_path / "empty.tar", [], None)
    for reference in ("cut.tar", "absent.tar", "empty.tar", "none-*.tar"):
        with pytest.raises(InputFileError) as caught:
            contents(f"wds:{tmp_path / reference}")
        assert caught.value.code == "CB-DATA-09"


def test_a_shard_list_runs_no_command(tmp_path: Path) -> None:
    pytest.importorskip("webdataset", reason="webdataset is in the extra 'data', not in 'dev'")
    for reference in (f"pipe:touch {tmp_path}/ran", "https://example.org/{0..9}.tar"):
        with pytest.raises(InputFileError, match="only files on this machine"):
            open_data(f"wds:{reference}", SMALL)
    assert not (tmp_path / "ran").exists()


def test_a_torchvision_dataset_that_is_on_disk(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = numpy.stack([numpy.asarray(noise(28, 28, seed).convert("L")) for seed in range(6)])
    labels = [3, 1, 4, 1, 5, 9]
    for part in ("t10k", "train"):
        head = struct.pack(">IIII", 0x803, 6, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 6) + bytes(labels))
    data = open_data(f"torchvision:MNIST:{tmp_path}", SMALL, workers=0)
    (batch,) = data
    assert batch.labels is not None and batch.labels.tolist() == labels and len(data.source.classes) == 10
    assert data.notes == {"grey to RGB": 6}
    Image.fromarray(pixels[2]).save(tmp_path / "x.png")
    numpy.savez(tmp_path / "x.npz", images=pixels)
    (same_pixels,) = open_data(tmp_path / "x.npz", SMALL, workers=0)
    assert torch.equal(batch.inputs, same_pixels.inputs)  # type: ignore[arg-type]

    for reference, code in ((f"MNISTT:{tmp_path}", "CB-DATA-15"), ("MNIST", "CB-DATA-15")):
        with pytest.raises(UsageError) as caught:
            open_data(f"torchvision:{reference}", SMALL)
        assert caught.value.code == code
    with pytest.raises(InputFileError, match="nothing is downloaded") as missing:
        open_data(f"torchvision:CIFAR10:{tmp_path}", SMALL)
    assert missing.value.code == "CB-DATA-09"
