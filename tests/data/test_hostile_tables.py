"""Folders of ``datasets`` whose files are pipes, or are named by paths that leave the folder."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
from PIL import Image

from cbsurgeon.data import open_source
from cbsurgeon.errors import InputFileError
from cbsurgeon.options import DataOptions

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def ends() -> Iterator[None]:
    """A reader that waits for a pipe is interrupted."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def saved(to: Path) -> Path:
    pictures = [Image.fromarray(numpy.full((8, 8, 3), 40 * level, numpy.uint8)) for level in range(3)]
    datasets.Dataset.from_dict({"image": pictures, "label": [0, 1, 0]}).save_to_disk(str(to))
    return to


def refused(folder: Path) -> str:
    with pytest.raises(InputFileError) as error:
        open_source(f"hf:{folder}", DataOptions())
    assert error.value.code == "CB-DATA-09" and error.value.where == f"hf:{folder}"
    return error.value.why


def test_a_folder_as_it_was_saved_is_read(tmp_path: Path) -> None:
    assert open_source(f"hf:{saved(tmp_path / 'a')}", DataOptions()).count == 3


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a")
    (table,) = folder.glob("*.arrow")
    table.unlink()
    os.mkfifo(table)
    assert table.name in refused(folder)


@pytest.mark.parametrize("name", ["../b/NAME", "/dev/zero", "..", "", 3, None])
def test_tables_outside_the_folder_are_not_read(tmp_path: Path, name: object) -> None:
    folder, other = saved(tmp_path / "a"), saved(tmp_path / "b")
    state = json.loads((folder / "state.json").read_text())
    wanted = name.replace("NAME", next(other.glob("*.arrow")).name) if isinstance(name, str) else name
    state["_data_files"] = [{"filename": wanted}]
    (folder / "state.json").write_text(json.dumps(state))
    assert "not a plain name" in refused(folder)


def test_splits_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    saved(tmp_path / "b")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "dataset_dict.json").write_text(json.dumps({"splits": ["../b"]}))
    assert "'../b'" in refused(tmp_path / "a")
