"""Datasets that are damaged or malicious: refused or counted, with limited memory, and never without end."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from cbsurgeon.data import open_data
from cbsurgeon.data.decoding import MOST_BYTES
from cbsurgeon.data.sources import webdataset_shards
from cbsurgeon.errors import InputFileError
from tests.data.pictures import noise
from tests.data.test_kinds import SMALL, encoded, shard

needs_webdataset = pytest.mark.skipif(
    find_spec("webdataset") is None, reason="webdataset is in the extra 'data', not in 'dev'"
)

PICTURES = [noise(20, 20, seed) for seed in range(4)]


def read(spec: object, **how: Any) -> tuple[int, list[str]]:
    """The number of samples that can be read, and why the others cannot."""
    data = open_data(str(spec), SMALL, **{"workers": 0, "batch": 2, **how})
    return sum(len(batch) for batch in data), [problem.reason for problem in data.problems]


def refused(spec: object, **how: Any) -> str:
    with pytest.raises(InputFileError, match="CB-DATA-09") as raised:
        read(spec, **how)
    return raised.value.why


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, **fields: Any) -> bytes:
    about = tarfile.TarInfo(name)
    about.size, about.type = size, kind
    about.pax_headers = fields
    return about.tobuf(tarfile.PAX_FORMAT)


def sparse() -> bytes:
    """An old GNU header of a file with 512 bytes that stand for 8 GiB."""
    held = bytearray(header("9.png", 512, tarfile.GNUTYPE_SPARSE))
    held[386:410], held[483:495] = b"00000000000\0" + b"00000001000\0", b"%011o\0" % (8 << 30)
    held[148:156] = b" " * 8
    held[148:156] = b"%06o\0 " % sum(held)
    return bytes(held) + bytes(512)


LARGE: dict[str, Callable[[], bytes]] = {
    "sparse, old header": sparse,
    "sparse, size in a header": lambda: (
        header("9.png", 512, **{"GNU.sparse.map": "0,512", "GNU.sparse.size": str(8 << 30)}) + bytes(512)
    ),
    "sparse, map in the file": lambda: (
        header("9.png", 512, **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(8 << 30)})
        + b"0\n".ljust(512, b"\0")
    ),
    "larger than an image may be": lambda: header("9.png", MOST_BYTES + 1),
    "a header of 900 MB": lambda: header("x", 900 << 20, tarfile.XHDTYPE),
    "a name of 900 MB": lambda: header("x", 900 << 20, tarfile.GNUTYPE_LONGNAME),
    "thousands of nested names": lambda: (header("x", 512, tarfile.GNUTYPE_LONGNAME) + bytes(512)) * 3000,
}


@needs_webdataset
@pytest.mark.parametrize("member", LARGE)
def test_a_shard_that_stands_for_more_than_memory_is_refused(tmp_path: Path, member: str) -> None:
    shard(tmp_path / "good.tar", PICTURES, [0, 1, 2, 0])
    file = tmp_path / "large.tar"
    file.write_bytes(LARGE[member]() + (tmp_path / "good.tar").read_bytes())
    assert refused(f"wds:{file}")


@needs_webdataset
@pytest.mark.parametrize("packed", [gzip, bz2, lzma])
def test_a_compressed_shard_is_read_unless_it_is_a_bomb(
    tmp_path: Path, packed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard(tmp_path / "good.tar", PICTURES, [0, 1, 2, 0])
    plain = (tmp_path / "good.tar").read_bytes()
    (tmp_path / "good.tar.x").write_bytes(packed.compress(plain))
    assert read(f"wds:{tmp_path / 'good.tar.x'}") == (4, [])
    monkeypatch.setattr(webdataset_shards, "_SMALL", 1 << 16)
    bomb = header("x.bin", 64 << 20) + bytes(64 << 20)
    (tmp_path / "bomb.tar.x").write_bytes(packed.compress(bomb + plain))
    assert "times its size" in refused(f"wds:{tmp_path / 'bomb.tar.x'}")


@needs_webdataset
def test_a_damaged_shard_does_not_end_early(tmp_path: Path) -> None:
    """tarfile takes a damaged header for the end of the archive."""
    file = tmp_path / "shard.tar"
    shard(file, PICTURES, [0, 1, 2, 0])
    good = file.read_bytes()
    place = good.index(b"00002.png")
    file.write_bytes(good[:place] + b"\xff" + good[place + 1 :])
    assert "damaged" in refused(f"wds:{file}")
    file.write_bytes(good[: place + 100])
    assert "truncated" in refused(f"wds:{file}")


@needs_webdataset
def test_only_regular_files_of_a_shard_are_read(tmp_path: Path) -> None:
    file = tmp_path / "shard.tar"
    shard(file, PICTURES, [0, 1, 2, 0])
    with tarfile.open(file, "a") as archive:
        for name, kind in (("a", tarfile.SYMTYPE), ("b", tarfile.LNKTYPE), ("c", tarfile.CHRTYPE)):
            about = tarfile.TarInfo(f"{name}.png")
            about.type, about.linkname = kind, "/etc/passwd"
            archive.addfile(about)
    assert read(f"wds:{file}") == (4, [])


@needs_webdataset
@pytest.mark.parametrize(
    "pattern", ["x{0..999999999999}.tar", "{0..9}" * 9, "{a..z}" * 6, "{0.." + "9" * 30 + "}", "{a..", "}{", "{"]
)
def test_braces_for_too_many_shards_are_refused(pattern: str) -> None:
    assert refused(f"wds:{pattern}")


@needs_webdataset
@pytest.mark.parametrize("label", [b"cat", b"9" * 30, b"9" * 6000, b"", b"1.5", b"\xff"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_label_that_is_no_class_index_is_named(tmp_path: Path, label: bytes, workers: int) -> None:
    for name in ("a", "b"):  # two shards, so that worker processes read them
        shard(tmp_path / f"{name}.tar", PICTURES, [0, 1, 2, 0])
    with tarfile.open(tmp_path / "b.tar", "a") as archive:
        for suffix, held in (("png", encoded(PICTURES[0])), ("cls", label)):
            about = tarfile.TarInfo(f"bad.{suffix}")
            about.size = len(held)
            archive.addfile(about, io.BytesIO(held))
    with pytest.raises(InputFileError, match="CB-DATA-09") as raised:
        read(f"wds:{tmp_path}/?.tar", workers=workers)
    assert raised.value.where == "b.tar/bad"


def rewritten(folder: Path, images: list[Any], labels: list[Any], kind: str = "int64") -> str:
    """A folder saved by datasets whose table is replaced: save_to_disk would copy files into the table."""
    datasets = pytest.importorskip("datasets", reason="datasets is in the extra 'data', not in 'dev'")
    pa = pytest.importorskip("pyarrow")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value(kind)})
    rows = {"image": [{"bytes": b"x", "path": None}] * len(labels), "label": labels}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(folder))
    file = next(folder.glob("*.arrow"))
    table = pa.ipc.open_stream(pa.BufferReader(file.read_bytes())).read_all()
    field = table.schema.field("image")
    table = table.set_column(table.schema.get_field_index("image"), field, pa.array(images, type=field.type))
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return f"hf:{folder}"


def test_a_table_of_datasets_reads_regular_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    good = {"bytes": encoded(PICTURES[0]), "path": None}
    paths = ["/dev/zero", str(tmp_path / "pipe"), str(tmp_path), "/nowhere/x.png"]
    images = [good, None, {"bytes": None, "path": None}, *({"bytes": None, "path": path} for path in paths)]
    count, problems = read(rewritten(tmp_path / "table", images, [0] * len(images)))
    assert count == 1 and len(problems) == len(images) - 1


@pytest.mark.parametrize(("label", "kind"), [(None, "int64"), ("cat", "string"), (0.5, "float32"), (1e30, "float64")])
def test_a_table_with_labels_that_are_no_class_index(tmp_path: Path, label: Any, kind: str) -> None:
    good = {"bytes": encoded(PICTURES[0]), "path": None}
    assert refused(rewritten(tmp_path / "table", [good], [label], kind))


def test_a_torchvision_dataset_counts_images_that_it_cannot_open(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        (tmp_path / "eurosat" / "2750" / name).mkdir(parents=True)
        PICTURES[number].save(tmp_path / "eurosat" / "2750" / name / "x.png")
    (tmp_path / "eurosat" / "2750" / "b" / "y.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    count, problems = read(f"torchvision:EuroSAT:{tmp_path}")
    assert count == 2 and len(problems) == 1


def test_no_pickle_of_torchvision_is_read(tmp_path: Path) -> None:
    assert "pickle" in refused(f"torchvision:LSUN:{tmp_path}")


def test_a_narrow_image_is_not_scaled_to_gigabytes(tmp_path: Path) -> None:
    """A line of 20 million pixels would become 30 million times 37."""
    PICTURES[0].save(tmp_path / "good.png")
    for name, size in (("tall.png", (1, 20_000_000)), ("wide.png", (20_000_000, 1))):
        Image.new("1", size).save(tmp_path / name)
    count, problems = read(tmp_path)
    assert count == 1 and all("scaled for the model" in why for why in problems) and len(problems) == 2


def test_links_that_make_many_paths_are_counted_for_the_whole_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cbsurgeon.data.sources import folder

    for depth in range(7):
        (tmp_path / "links" / str(depth)).mkdir(parents=True)
    for depth in range(6):
        for name in "pq":
            (tmp_path / "links" / str(depth) / name).symlink_to(f"../{depth + 1}")
    (tmp_path / "data").mkdir()
    for name in "abcd":  # 126 folders each
        (tmp_path / "data" / name).symlink_to(tmp_path / "links" / "0")
    monkeypatch.setattr(folder, "_MOST_FOLDERS", 300)
    with pytest.raises(InputFileError, match="CB-DATA-07"):
        read(tmp_path / "data")


def test_an_empty_picture_in_an_array_is_counted(tmp_path: Path) -> None:
    numpy.savez(tmp_path / "empty.npz", images=numpy.zeros((3, 0, 8, 3), "uint8"))
    assert read(tmp_path / "empty.npz")[0] == 0
