"""Failures of the operating system, and claims that are false, are reported as errors with four parts."""

from __future__ import annotations

import errno
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import onnx
import pytest
import torch

import cbsurgeon as cbs
from cbsurgeon.cli.common.failure import explain
from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.models.files import atomic
from tests.cli.running import TIMM, VIT, run


def test_the_operating_system_is_quoted() -> None:
    found = explain(OSError(errno.ENOSPC, "No space left on device", "out.onnx"))
    assert (found.code, found.exit_code) == ("CB-CLI-04", 2)
    assert found.where == "out.onnx"
    assert "No space left" in found.why


def test_an_error_without_a_file_has_a_place_too() -> None:
    assert explain(OSError(errno.ENOSPC, "No space left on device")).where == "standard output"
    with pytest.raises(OSError) as raised:
        atomic._sync(Path("/dev/null"))  # a device cannot be flushed
    assert explain(raised.value).where.startswith("cbsurgeon.models.files.atomic, line ")


FULL = Path("/dev/full")
"""A device on which every write fails as on a full disk."""


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("words", "streams", "code"),
    [
        ("inspect nope:x", "2> /dev/full", 2),
        ("inspect nope:x --json", "> /dev/full", 2),
        ("inspect nope:x --json", "> /dev/full 2>&1", 2),
        ("inspect nope:x --json --debug", "> /dev/full 2>&1", 2),
        ("inspect nope:x", "2>&1 >/dev/null | sleep 0", 2),
        ("--version", "> /dev/full", 2),
        ("insert VIT -o FOLDER/x.safetensors", "2> /dev/full", 0),
        ("insert VIT -o FOLDER/x.safetensors -v", "2>&1 > /dev/null | sleep 0", 0),
    ],
)
def test_a_stream_that_cannot_be_written_changes_no_exit_code(
    tmp_path: Path, words: str, streams: str, code: int
) -> None:
    """What is said about the work fails, not the work; Python would end with 1 or 120 and a traceback."""
    words = words.replace("VIT", VIT).replace("FOLDER", str(tmp_path))
    script = f"{sys.executable} -m cbsurgeon {words} {streams}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr, "ignored" in done.stderr) == (code, False, False), done.stderr
    assert (tmp_path / "x.safetensors").exists() == ("insert" in words)


def test_out_of_memory_names_the_options_to_reduce() -> None:
    found = explain(MemoryError("cannot allocate 64 GiB"))
    assert (found.code, found.exit_code) == ("CB-CLI-05", 2)
    assert "64 GiB" in found.why


def test_memory_that_torch_cannot_allocate_is_no_fault() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert explain(raised.value).code == "CB-CLI-05"
    assert explain(torch.OutOfMemoryError("CUDA out of memory")).code == "CB-CLI-05"


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash sets the limit")
def test_a_limit_of_memory_that_torch_does_not_fit_into_is_no_fault() -> None:
    words = f"ulimit -v 1500000; {shlex.quote(sys.executable)} -m cbsurgeon inspect timm:test_vit --no-cache"
    root = Path(__file__).parents[2]
    done = subprocess.run(["bash", "-c", words], cwd=root, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "CB-MISSING-04" in done.stderr


def test_a_slower_model_fails_its_claim() -> None:
    """Four times the channels: nobody's noise."""
    small = ("mod:tests.cli.running:tiny_vit", "timm:test_vit")
    outcome = run("bench", small[0], small[1], "--budget", "3s", "--claim", "1%")
    assert outcome.code == 1, outcome.out
    assert "CB-BENCH-01" in outcome.err
    assert "slower than the claim of 1 % allows" in outcome.err and "slower by" in outcome.err
    assert "fold" not in outcome.err  # nothing is inserted


def test_an_onnx_file_of_another_exporter_says_nothing_of_surgery(tmp_path: Path) -> None:
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    outcome = run("inspect", tmp_path / "m.onnx")
    assert outcome.code == 2
    assert "CB-ONNX-04" in outcome.err


def test_a_program_cannot_be_edited_as_a_module(tmp_path: Path) -> None:
    assert run("export", VIT, "-o", tmp_path / "m.pt2").code == 0
    program = cbs.load(str(tmp_path / "m.pt2"), trust=True)
    recipe = cbs.plan(cbs.inspect(program), layers="all")
    with pytest.raises(UsageError) as caught:
        cbs.insert(program, recipe, on="module")
    assert caught.value.code == "CB-INSERT-01"


def test_a_program_file_without_its_graph(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.pt2", tmp_path / "m.pt2"
    assert run("export", VIT, "-o", whole).code == 0
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(path, "w") as damaged:
        for name in archive.namelist():
            damaged.writestr(name, b"{}" if name.endswith("model.json") else archive.read(name))
    with pytest.raises(InputFileError) as caught:
        cbs.load(str(path), trust=True)
    assert caught.value.code == "CB-LOAD-14"


def test_a_fixed_batch_from_the_command_line(tmp_path: Path) -> None:
    outcome = run("export", TIMM, "-o", tmp_path / "m.pt2", "--batch", "4")
    assert outcome.code == 2
    assert "CB-EXPORT-09" in outcome.err
    found = run("export", VIT, "-o", tmp_path / "m.onnx", "--batch", "4", "--json").document
    assert found["inputs"][0]["dims"][0] == 4
    assert {row["batch"] for row in found["verify"]["rows"]} == {4}


@pytest.mark.parametrize("kind", [MemoryError, RuntimeError])
def test_an_error_without_a_file_names_the_line_of_the_package(kind: type[Exception]) -> None:
    from cbsurgeon.models.files import strict_json

    class Text(str):
        def __len__(self) -> int:
            raise kind

    with pytest.raises(kind) as raised:
        strict_json.parse(Text())
    assert explain(raised.value).where.startswith("cbsurgeon.models.files.strict_json, line ")


@pytest.mark.thin(3)
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash closes the streams")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_neither_exit_code_nor_output(closed: str, tmp_path: Path) -> None:
    """A recipe is written while a stream is closed: nothing is printed into it."""
    program = f"{shlex.quote(sys.executable)} -m cbsurgeon insert {VIT} --layers all -o {tmp_path}/m.safetensors"
    root = Path(__file__).parents[2]
    done = subprocess.run(["bash", "-c", f"{program} {closed}"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert run("inspect", tmp_path / "m.safetensors", "--arch", VIT).code == 0
    failed = subprocess.run(["bash", "-c", f"{program} {closed}"], cwd=root, capture_output=True, text=True)
    assert failed.returncode == 2 and "INTERNAL" not in failed.stderr
