"""Small files that are read as a whole: a pipe without a writer and an endless device end at once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from cbsurgeon import models
from cbsurgeon.errors import CBSurgeonError, InputFileError
from cbsurgeon.evaluation.task import classes_of
from cbsurgeon.models.files import strict_json
from cbsurgeon.models.files.arrays import read_arrays
from cbsurgeon.report import read_document
from cbsurgeon.sweeps.command import RunFailed, read_metric
from cbsurgeon.verbs import read_recipe
from cbsurgeon.verbs.folder import _ours

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pipes and devices as Linux has them")

READERS: dict[str, Callable[[Path], object]] = {
    "recipe": read_recipe,
    "report": read_document,
    "classes": lambda path: classes_of(10, path, (), "here"),
    "metrics": lambda path: read_metric(path, "accuracy"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("reader", READERS)
def test_a_file_without_an_end_is_refused(reader: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises((CBSurgeonError, RunFailed)):
        READERS[reader](path)


def test_the_result_of_another_command_is_read() -> None:
    """As of ``cbsurgeon report <(cbsurgeon audit ... --json)``, where a shell gives the name of a pipe."""
    reading, writing = os.pipe()
    os.write(writing, b'{"a": [1]}')
    os.close(writing)
    assert strict_json.load(Path(f"/dev/fd/{reading}")) == {"a": [1]}
    os.close(reading)


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    path.write_text(json.dumps("x" * 100))
    assert strict_json.load(path, largest=102) == "x" * 100
    with pytest.raises(strict_json.NotStrictJSON, match="at most 101"):
        strict_json.load(path, largest=101)


def test_a_folder_with_a_nested_mark_is_not_one_of_ours(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("[" * 100_000)
    assert not _ours(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.bool, torch.complex64])
def test_weights_that_layers_do_not_compute_with_are_refused(dtype: torch.dtype) -> None:
    """Another architecture is no remedy, so the message names the conversion."""
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    with pytest.raises(InputFileError) as caught:
        models.fit(module, {"weight": torch.ones(2, 3).to(dtype), "bias": torch.zeros(2)}, "here")
    assert caught.value.code == "CB-FIT-01"
    assert f"weight is {str(dtype)[6:]} in the file, float32 in the architecture" in caught.value.why
    assert "bfloat16" in caught.value.do
    assert torch.equal(module.weight, before)


@pytest.mark.parametrize("dtype", [">f4", ">i8", ">f8", "<f4"])
def test_arrays_of_the_other_byte_order_hold_the_same_numbers(dtype: str, tmp_path: Path) -> None:
    numbers = numpy.arange(12).reshape(3, 4)
    numpy.savez(tmp_path / "x.npz", x=numbers.astype(dtype))
    (read,) = read_arrays(tmp_path / "x.npz").values()
    assert torch.equal(torch.from_numpy(read).double(), torch.from_numpy(numbers).double())


@pytest.mark.skipif(numpy.longdouble is numpy.float64, reason="long double has 64 bits here")
def test_numbers_that_torch_has_not_are_refused(tmp_path: Path) -> None:
    numpy.savez(tmp_path / "x.npz", x=numpy.zeros(3, numpy.longdouble))
    with pytest.raises(InputFileError) as caught:
        read_arrays(tmp_path / "x.npz")
    assert caught.value.code == "CB-INPUT-03"
