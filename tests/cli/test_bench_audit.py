"""``bench`` at several points and ``audit --roofline``, on a tiny real model."""

from __future__ import annotations

from pathlib import Path

import pytest

import cbsurgeon as cbs
from tests.cli.running import SMALL, TIMM, run


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "plain.safetensors"
    cbs.save(cbs.load(TIMM, options=SMALL), path)
    return path


@pytest.fixture(scope="module")
def edited(plain: Path) -> Path:
    path = plain.with_name("edited.safetensors")
    assert run("insert", plain, "--layers", "all", "-o", path).code == 0
    return path


@pytest.mark.wide
def test_several_batches_are_a_sweep(plain: Path, edited: Path) -> None:
    outcome = run("bench", plain, edited, "--batch", "1,3", "--budget", "4s", "--claim", "900%", "--json")
    found = outcome.document
    assert outcome.code == 0, outcome.err
    assert {"ratio", "ci95", "verdict", "pairs", "environment"} <= set(found)
    assert [point["environment"]["batch"] for point in found["sweep"]] == [1, 3]
    assert "sweep" not in run("bench", plain, edited, "--budget", "2s", "--claim", "900%", "--json").document


def test_each_size_builds_new_models(tmp_path: Path) -> None:
    reference = "timm:test_vit"
    words = ("bench", reference, reference, "--size", "64,256", "--budget", "4s", "--claim", "900%", "--json")
    found = run(*words).document
    assert [point["environment"]["size"] for point in found["sweep"]] == [64, 256]
    small, large = (point["median_seconds"]["a"] for point in found["sweep"])
    assert large > small  # 256 patches against 16


@pytest.mark.parametrize("more", [["--input", "3x64x64"], ["--inputs", "x.npz"]])
def test_a_size_given_twice_is_refused(more: list[str]) -> None:
    outcome = run("bench", "timm:test_vit", "timm:test_vit", "--size", "96", *more)
    assert outcome.code == 2 and "CB-CLI-07" in outcome.err


def test_an_exported_file_has_its_size() -> None:
    outcome = run("bench", "a.onnx", "timm:test_vit", "--size", "96")
    assert outcome.code == 2 and "a.onnx" in outcome.err and "CB-CLI-07" in outcome.err


def test_a_roofline_is_part_of_the_audit(plain: Path, edited: Path) -> None:
    words = ("audit", plain, edited, "--roofline", "--hardware", "h200,cpu", "--dtype", "fp16,fp32", "--batch", "3")
    found = run(*words, "--json").document
    table = found["roofline"]
    assert found["batch"] == table["batch"] == 3
    assert {(row["hardware"], row["dtype"]) for row in table["rows"][:8]} == {
        ("H200 SXM", kind) for kind in ("float16", "float32")
    }
    assert table["rows"][-1]["hardware"].startswith("this processor") and table["left_out"][-1].endswith("float16")
    assert "share of latency" in run(*words).out
    assert "roofline" not in run("audit", plain, edited, "--json").document


def test_both_byte_counts_are_named_and_explained(plain: Path, edited: Path) -> None:
    found = run("audit", plain, edited, "--json").document
    assert 0 < found["bytes_fused"]["difference"] < found["bytes"]["difference"]
    assert f"{100 * found['bytes']['relative']:+.2f} %" in found["bytes_explained"]
    shown = run("audit", plain, edited).out
    assert "bytes moved, unfused" in shown and "bytes moved, fused" in shown and "Bytes are not time" in shown
    assert run("audit", plain, "--json").document["bytes_explained"] == ""


def test_a_device_can_be_described(plain: Path, edited: Path) -> None:
    words = ("audit", plain, edited, "--roofline", "--bandwidth", "3.35TB/s", "--flops", "989T", "--json")
    table = run(*words).document["roofline"]
    assert {row["hardware"] for row in table["rows"]} == {"3.35 TB/s, 989 TFLOPS"}


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--roofline", "--hardware", "h999"], "CB-AUDIT-01"),
        (["--roofline", "--bandwidth", "3TB/s"], "CB-AUDIT-04"),
        (["--bandwidth", "3TB/s"], "CB-CLI-07"),
        (["--roofline", "--dtype", "int8"], "CB-CLI-06"),
        (["--hardware", "cpu"], "CB-CLI-07"),
        (["--dtype", "fp16"], "CB-CLI-07"),
    ],
)
def test_options_of_the_roofline_that_mean_nothing_are_refused(
    plain: Path, edited: Path, more: list[str], code: str
) -> None:
    outcome = run("audit", plain, edited, *more)
    assert outcome.code == 2 and code in outcome.err


def test_a_roofline_needs_something_inserted(plain: Path) -> None:
    outcome = run("audit", plain, "--roofline")
    assert outcome.code == 2 and "CB-AUDIT-02" in outcome.err


def test_devices_on_the_command_line_are_those_that_are_known() -> None:
    """They are written as text, because importing them would import torch."""
    from cbsurgeon.checks.cost.hardware import NAMES
    from cbsurgeon.cli.audit import HARDWARE

    assert tuple(HARDWARE.split(",")) == tuple(NAMES)


@pytest.mark.wide
def test_any_number_of_models_and_files_is_audited(plain: Path, edited: Path) -> None:
    file = plain.with_name("edited.onnx")
    assert run("export", edited, "-o", file, "--no-verify").code == 0
    outcome = run("audit", plain, edited, file, "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.document
    assert found["b"] and len(found["models"]) == 3
    assert found["models"][2]["reference"] == str(file)
    assert found["models"][1]["flops"] - found["models"][0]["flops"] == found["flops"]["difference"]
    shown = run("audit", plain, edited, file).out
    assert "C - A" in shown and "all models" in shown
    assert run("audit", file, "--json").document["params"]["b"] is None
    assert run("audit", plain, file.with_suffix(".engine")).code == 2


def test_a_cross_check_prints_both_counts(plain: Path, edited: Path) -> None:
    pytest.importorskip("fvcore", reason="the cross-check needs the extra `cost`")
    outcome = run("audit", plain, edited, "--cross-check", "--json")
    assert outcome.code == 0, outcome.err
    checks = outcome.document["cross_check"]
    assert [check["ours"] for check in checks] == [outcome.document["flops"][side] for side in ("a", "b")]
    assert all(check["ok"] and check["explained"] for check in checks)
    shown = run("audit", plain, "--cross-check").out
    assert "fvcore" in shown and "explained" in shown and "layer_norm" in shown
