"""Datasets: every sample exactly once, conversions noted, damage counted and named, clear errors."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from cbsurgeon.data import Data, Indexed, Sample, open_data
from cbsurgeon.data.decoding import MOST_PIXELS, Unreadable, decode
from cbsurgeon.data.sources import folder
from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, cropped
from tests.data.pictures import noise, save_classes

LOOK: dict[str, Any] = {"interpolation": "bilinear", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
SMALL = cropped((32, 32), 0.875, **LOOK)


def save(path: Path, picture: Image.Image | None = None, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture or noise(40, 50)).save(path, **how)
    return path


def everything(data: Data) -> list[tuple[int, str, int | None]]:
    return [
        (int(index), name, None if batch.labels is None else int(batch.labels[place]))
        for batch in data
        for place, (index, name) in enumerate(zip(batch.indices, batch.names, strict=True))
    ]


def test_classes_are_numbered_as_torchvisions_image_folder_does(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    save_classes(tmp_path, ("b", "A", "c"), 9)
    save(tmp_path / "b" / "deeper" / "x.JPG")
    (tmp_path / "b" / "notes.txt").write_text("no image")
    theirs = ImageFolder(str(tmp_path))
    data = open_data(tmp_path, SMALL, workers=0)
    assert list(data.source.classes) == theirs.classes
    ours = {(tmp_path / name, label) for _, name, label in everything(data)}
    assert ours == {(Path(path), label) for path, label in theirs.samples}


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.png")
    data = open_data(tmp_path, SMALL, workers=0)
    assert not data.source.labelled and [name for _, name, _ in everything(data)] == ["0.png", "1.png", "2.png"]


# With workers only twice: they take a second to start.
@pytest.mark.parametrize(("workers", "processes"), [(0, 1), (0, 2), (0, 4), (0, 7), (0, 40), (2, 1), (2, 3)])
def test_each_sample_is_read_exactly_once_in_the_same_batches(tmp_path: Path, workers: int, processes: int) -> None:
    save_classes(tmp_path, count=23)
    shares = [
        open_data(tmp_path, SMALL, batch=4, workers=workers, share=(rank, processes)) for rank in range(processes)
    ]
    batches = [tuple(batch.names) for share in shares for batch in share]
    alone = [tuple(batch.names) for batch in open_data(tmp_path, SMALL, batch=4, workers=0)]
    assert sorted(batches) == sorted(alone)
    assert sum(map(len, batches)) == 23 and len({name for batch in batches for name in batch}) == 23


def test_a_limit_takes_samples_of_every_class_and_keeps_their_numbers(tmp_path: Path) -> None:
    save_classes(tmp_path, count=24)
    found = everything(open_data(tmp_path, SMALL, workers=0, limit=6))
    assert [index for index, _, _ in found] == [0, 4, 8, 12, 16, 20]
    assert {label for _, _, label in found} == {0, 1, 2}


def test_worker_processes_give_the_same_numbers(tmp_path: Path) -> None:
    save_classes(tmp_path, count=12)
    here, there = (list(open_data(tmp_path, SMALL, batch=5, workers=workers)) for workers in (0, 2))
    assert [batch.names for batch in here] == [batch.names for batch in there]
    assert all(torch.equal(one.inputs, two.inputs) for one, two in zip(here, there, strict=True))  # type: ignore[arg-type]


CONVERSIONS = [
    ("L", {}, "grey to RGB"),
    ("1", {}, "grey to RGB"),
    ("RGBA", {}, "alpha dropped, to RGB"),
    ("LA", {}, "alpha dropped, to RGB"),
    ("P", {}, "palette to RGB"),
    ("I;16", {}, "16-bit to 8-bit"),
    ("CMYK", {"suffix": ".jpg"}, "CMYK to RGB"),
    ("CMYK", {"suffix": ".tif"}, "CMYK to RGB"),
]


@pytest.mark.parametrize(("mode", "how", "note"), CONVERSIONS)
def test_conversions_are_noted(tmp_path: Path, mode: str, how: dict[str, str], note: str) -> None:
    picture = noise(40, 50)
    if mode == "I;16":
        wide = numpy.asarray(picture.convert("L")).astype(numpy.uint16) * 257
        changed = Image.fromarray(wide)
    else:
        changed = picture.convert(mode)
    path = save(tmp_path / f"x{how.get('suffix', '.png')}", changed)
    found, notes = decode(path, "RGB")
    assert note in notes and found.mode == "RGB"
    if mode == "I;16":
        assert numpy.array_equal(numpy.asarray(found)[..., 0], numpy.asarray(picture.convert("L")))
    data = open_data(tmp_path, SMALL, workers=0)
    assert len(list(data)) == 1 and data.notes[note] == 1


def test_sixteen_bit_colour_is_noted(tmp_path: Path) -> None:
    # Pillow writes no 16-bit colour: a two-pixel file, written by hand.
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + struct.pack(">6H", 0xFFFF, 0x8000, 0, 0x1234, 0x0100, 0x00FF)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    found, notes = decode(b"\x89PNG\r\n\x1a\n" + body, "RGB")
    assert notes == ("16-bit to 8-bit",)
    assert numpy.asarray(found).tolist() == [[[255, 128, 0], [18, 1, 0]]]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 32))
    picture.paste((255, 0, 0), (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "x.png", picture, exif=exif)
    found, notes = decode(path, "RGB")
    assert notes == ("rotated by EXIF orientation",)
    assert found.size == (32, 64) and found.getpixel((16, 8)) == (255, 0, 0) and found.getpixel((16, 56)) == (0, 0, 0)


def damaged(kind: str) -> bytes:
    buffer = io.BytesIO()
    noise(64, 64).save(buffer, "JPEG")
    whole = buffer.getvalue()
    return {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"no image at all",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "head only": whole[:20],
    }[kind]


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "postscript", "head only"])
def test_damaged_images_are_counted_and_named_and_strict_fails(tmp_path: Path, kind: str) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.jpg")
    (tmp_path / "bad.jpg").write_bytes(damaged(kind))
    data = open_data(tmp_path, SMALL, workers=0)
    assert len(everything(data)) == 3
    assert [problem.name for problem in data.problems] == ["bad.jpg"]
    assert data.problems[0].reason
    with pytest.raises(InputFileError) as caught:
        list(open_data(tmp_path, SMALL, workers=0, strict=True))
    assert caught.value.code == "CB-DATA-11" and "bad.jpg" in caught.value.where


@pytest.mark.parametrize(("edge", "why"), [(12_000, "pixels, at most"), (30_000, "DecompressionBomb")])
def test_an_image_bomb_is_not_decoded(edge: int, why: str) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    assert edge * edge > MOST_PIXELS
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", edge, edge, 1, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    with pytest.raises(Unreadable, match=why):
        decode(b"\x89PNG\r\n\x1a\n" + header + rows, "RGB")


def test_a_floating_point_image_has_no_known_range(tmp_path: Path) -> None:
    path = save(tmp_path / "x.tif", Image.fromarray(numpy.ones((4, 4), numpy.float32)))
    with pytest.raises(Unreadable, match="unknown range"):
        decode(path, "RGB")


def test_folders_that_are_not_a_dataset(tmp_path: Path) -> None:
    def code(folder: Path, **how: Any) -> str:
        with pytest.raises((InputFileError, UsageError)) as caught:
            open_data(folder, SMALL, workers=0, **how)
        return caught.value.code

    assert code(tmp_path / "absent") == "CB-DATA-03"
    (tmp_path / "file").write_text("x")
    assert code(tmp_path / "file") == "CB-DATA-03"
    (tmp_path / "empty").mkdir()
    assert code(tmp_path / "empty") == "CB-DATA-04"
    save(tmp_path / "mixed" / "a.png")
    save(tmp_path / "mixed" / "class" / "b.png")
    assert code(tmp_path / "mixed") == "CB-DATA-05"
    save(tmp_path / "maps" / "images" / "a.png")
    (tmp_path / "maps" / "labels").mkdir()
    assert code(tmp_path / "maps") == "CB-DATA-06"
    save(tmp_path / "loop" / "class" / "b.png")
    os.symlink(tmp_path / "loop", tmp_path / "loop" / "class" / "again")
    assert code(tmp_path / "loop") == "CB-DATA-07"
    assert code(tmp_path / "loop", limit=0) == "CB-DATA-12"
    save(tmp_path / "flat" / "b.png")
    assert next(iter(open_data(tmp_path / "flat", SMALL, workers=0, std="0.5"))).inputs.shape == (1, 3, 32, 32)
    with pytest.raises(UsageError) as caught:
        open_data(tmp_path / "flat")
    assert caught.value.code == "CB-DATA-01"


def test_numbers_as_class_names_have_two_orders(tmp_path: Path) -> None:
    for name in ("1", "2", "10"):
        save(tmp_path / name / "x.png")
    with pytest.raises(UsageError, match=r"class 1 is '10' in alphabetic order.*'2' in numeric order") as caught:
        open_data(tmp_path, SMALL)
    assert caught.value.code == "CB-DATA-08"
    assert open_data(tmp_path, SMALL, order="numeric").source.classes == ("1", "2", "10")
    assert open_data(tmp_path, SMALL, order="alphabetic").source.classes == ("1", "10", "2")


def test_a_class_without_an_image_keeps_its_number(tmp_path: Path) -> None:
    save(tmp_path / "b" / "x.png")
    (tmp_path / "a").mkdir()
    data = open_data(tmp_path, SMALL, workers=0)
    assert everything(data) == [(0, "b/x.png", 1)] and "a" in data.source.remarks[0]


def test_arrays_of_images_and_of_inputs(tmp_path: Path) -> None:
    pixels = numpy.stack([numpy.asarray(noise(40, 50, seed)) for seed in range(5)])
    numpy.savez(tmp_path / "i.npz", images=pixels, labels=numpy.arange(5))
    save(tmp_path / "folder" / "x.png", Image.fromarray(pixels[3]))
    data = open_data(tmp_path / "i.npz", SMALL, batch=2, workers=0)
    assert [label for _, _, label in everything(data)] == [0, 1, 2, 3, 4]
    same = next(iter(open_data(tmp_path / "folder", SMALL, workers=0)))
    assert torch.equal(list(data)[1].inputs[1], same.inputs[0])  # type: ignore[index]

    numpy.savez(tmp_path / "t.npz", input_ids=numpy.arange(12).reshape(4, 3), mask=numpy.ones((4, 3)))
    (batch,) = open_data(tmp_path / "t.npz", workers=0)
    assert batch.labels is None and batch.named(("mask", "input_ids"), where="m")["input_ids"].tolist()[1] == [3, 4, 5]
    with pytest.raises(UsageError, match="the model has x; the dataset has") as caught:
        batch.named(("x",), where="m")
    assert caught.value.code == "CB-DATA-10"
    with pytest.raises(UsageError, match="several inputs"):
        same.named(("pixel_values", "input_ids"), where="m")


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"labels": numpy.arange(3)}, "neither images nor inputs"),
        ({"x": numpy.zeros((3, 2)), "labels": numpy.arange(2)}, "different numbers of samples"),
        ({"x": numpy.zeros((0, 2))}, "no sample"),
        ({"images": numpy.zeros((3, 4, 4, 3))}, "not uint8"),
        ({"images": numpy.zeros((3, 4, 4, 3), numpy.uint8), "x": numpy.zeros(3)}, "also x"),
        ({"x": numpy.zeros(3), "labels": numpy.zeros(3)}, "must be integers"),
        ({"x": numpy.zeros(3), "labels": numpy.zeros((3, 4, 4))}, "must be integers"),
        ({"x": numpy.zeros(3), "labels": numpy.zeros((3, 4), numpy.complex64)}, "must be integers"),
        ({"x": numpy.float32(3)}, "one number"),
    ],
)
def test_arrays_that_do_not_form_a_dataset(tmp_path: Path, arrays: dict[str, Any], why: str) -> None:
    numpy.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputFileError, match=why) as caught:
        open_data(tmp_path / "x.npz", SMALL)
    assert caught.value.code == "CB-DATA-09"


@pytest.mark.parametrize("label", [1 << 63, (1 << 64) - 1])
def test_a_label_beyond_int64_is_refused(tmp_path: Path, label: int) -> None:
    numpy.savez(tmp_path / "x.npz", x=numpy.zeros(2), labels=numpy.array([0, label], dtype="uint64"))
    with pytest.raises(InputFileError, match="too large for a class index") as caught:
        list(open_data(tmp_path / "x.npz", SMALL, workers=0))
    assert caught.value.code == "CB-DATA-09"


def test_label_maps_go_with_their_images(tmp_path: Path) -> None:
    pixels = numpy.zeros((40, 50), numpy.uint8)
    pixels[:, 25:] = 3
    save(tmp_path / "images" / "a.jpg")
    save(tmp_path / "labels" / "a.png", Image.fromarray(pixels))
    (batch,) = open_data(tmp_path, cropped((40, 48), 1.0, resize="none", **LOOK), workers=0)
    assert batch.labels is not None and batch.labels.shape == (1, 40, 48)
    assert torch.equal(batch.labels[0], torch.from_numpy(pixels)[:, 1:49].long())


class Deadly(Indexed):
    """Ends the process that reads it."""

    def __init__(self) -> None:
        super().__init__("deadly", pictures=False, labelled=False, count=4)

    def sample(self, index: int) -> Sample:
        os._exit(3)


def test_a_worker_that_ends_is_an_error_and_no_hang() -> None:
    with pytest.raises(InputFileError) as caught:
        list(Data(Deadly(), (), batch=1, workers=2, strict=False, share=(0, 1)))
    assert caught.value.code == "CB-DATA-13" and "--workers 0" in caught.value.do


def test_links_among_folders_are_not_followed_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders with links to all those after them: the paths double with each folder, and none of them is a loop."""
    count = 8
    for first in range(count):
        (tmp_path / f"c{first}").mkdir()
        for other in range(first + 1, count):
            (tmp_path / f"c{first}" / f"to{other}").symlink_to(f"../c{other}")
    save(tmp_path / f"c{count - 1}" / "a.png")
    data = open_data(tmp_path, SMALL, workers=0)
    assert data.source.count == 2 ** (count - 1)
    monkeypatch.setattr(folder, "_MOST_FOLDERS", 50)
    with pytest.raises(InputFileError, match="CB-DATA-07"):
        open_data(tmp_path, SMALL, workers=0)


def test_links_that_lead_nowhere_are_images_that_cannot_be_read(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("b.png")
    (tmp_path / "c.png").symlink_to("absent.png")
    (tmp_path / "d.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "e.png")
    data = open_data(tmp_path, SMALL, workers=0, std="0.5")
    assert data.source.count == 3
    assert sum(len(batch.inputs) for batch in data) == 1
