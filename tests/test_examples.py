"""The examples: numbered, each in the table of examples/README.md, each run by a test."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
TESTS = Path(__file__).parent
ENTRIES = sorted(path.name for path in EXAMPLES.iterdir() if path.name not in ("README.md", "__pycache__", "recipes"))


def run(name: str, *options: str) -> str:
    """What an example prints."""
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / name), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_they_are_numbered_without_a_gap() -> None:
    numbers = [int(re.match(r"(\d\d)_[a-z]", name)[1]) for name in ENTRIES]
    assert numbers == list(range(1, len(ENTRIES) + 1))


def test_the_table_lists_all_of_them() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \| (.+) \|$", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert [name for name, _, _ in rows] == ENTRIES
    assert all(what.strip() and time.strip() for _, what, time in rows)


@pytest.mark.parametrize("name", ENTRIES)
def test_each_is_run_by_a_test(name: str) -> None:
    sources = [path.read_text() for path in TESTS.rglob("test_*.py")]
    assert any(f'"{name}"' in source for source in sources)


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.name)
def test_each_says_how_it_is_run(path: Path) -> None:
    head = path.read_text().split('"""')[1]
    command = f"python examples/{path.relative_to(EXAMPLES)}"
    assert command in head or "__main__" not in path.read_text()


@pytest.mark.slow
def test_insert_and_export() -> None:
    for package in ("timm", "onnx", "onnxruntime"):
        pytest.importorskip(package, reason="the example says it needs it")
    printed = run("01_insert_and_export.py")
    assert "cb at the end of blocks [2, 3]" in printed and "2 operators folded" in printed
    assert "\nsame: " in printed and "bit-equal: True" in printed


def test_a_pass_of_torch_fx() -> None:
    pytest.importorskip("timm", reason="the example says it needs it")
    printed = run("06_fx_pass.py")
    before, after = map(int, re.findall(r"additions in the graph: (\d+)", printed))
    assert after == before + 4, "one addition for each inserted operator"
    assert "changed: True; 4 operators" in printed and "identity: True" in printed


@pytest.mark.slow
def test_uniform_heads() -> None:
    """Table 1 prints 22, 21, 22 and 29 million; (C) adds 4 D^2 + 3 D values a layer, as the paper's 29 does."""
    pytest.importorskip("timm", reason="the example says it needs it")
    counts = [
        int(number) for number in re.findall(r"^(?:ViT-S|\(.\)) +(\d+)", run("07_uniform_heads.py"), re.MULTILINE)
    ]
    assert [round(number / 1e6) for number in counts] == [22, 21, 22, 29]
    assert counts[0] - counts[1] == 12 * 2 * 64 * 385 and counts[3] - counts[0] == 12 * (4 * 384**2 + 3 * 384)


@pytest.mark.slow
def test_lightning(tmp_path: Path) -> None:
    for package in ("timm", "sklearn", "pytorch_lightning"):
        pytest.importorskip(package, reason="the example says it needs it")
    printed = run("09_train_lightning.py", "--out", str(tmp_path / "run"))
    assert "with another recipe: True" in printed and "step 60, test accuracy" in printed
    assert "2 x cb_s, 128 parameters added" in printed


@pytest.mark.slow
def test_distillation() -> None:
    for package in ("timm", "sklearn", "onnxruntime"):
        pytest.importorskip(package, reason="the example says it needs it")
    printed = run("10_distill.py")
    assert "18 tokens" in printed and "ONNX Runtime computes the same" in printed
