"""``benchmarks/gpu.py`` on a machine without a GPU: its plan, its rows on the CPU, and what a broken row leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_rows.plan import DTYPES, MODELS, Group, plan

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def run(folder: Path, *words: str) -> tuple[int, list[dict[str, object]]]:
    """Run the script on the CPU; return the exit code and the rows of its file."""
    out = folder / "gpu.json"
    command = [sys.executable, "-W", "ignore", str(SCRIPT), "--device", "cpu", "-o", str(out), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, json.loads(out.read_text())["rows"]


def test_every_type_and_runtime_is_in_the_plan_and_groups_survive_their_text_form() -> None:
    groups = list(plan(list(MODELS)[:3], list(DTYPES), [8, 1, 64, 256]))
    assert {group.dtype for group in groups} == set(DTYPES)
    assert {group.model for group in groups} == set(list(MODELS)[:3])
    own = [
        group.batch for group in groups if (group.part, group.backend, group.dtype) == ("latency", "compile", "float16")
    ]
    assert own[:4] == [8, 1, 64, 256]
    assert [Group.parse(group.to_json()) for group in groups] == groups
    assert len({group.to_json() for group in groups}) == len(groups)


@pytest.mark.wide
def test_a_row_on_the_cpu(tmp_path: Path) -> None:
    """The module on the same device computes the same to the last digit; rows without time left are left out."""
    pytest.importorskip("timm", reason="the models are timm's")
    words = ["--models", "ViT-Ti", "--dtypes", "float32", "--parts", "parity", "--seconds", "40"]
    code, rows = run(tmp_path, *words)
    first = [row for row in rows if row["backend"] == "eager"]
    assert first[0]["ok"] is True and first[0]["max_abs"] == 0.0
    assert all(row["ok"] in (True, None) for row in rows)
    assert code == 0


@pytest.mark.wide
def test_an_error_ends_one_group_only(tmp_path: Path) -> None:
    """A device that PyTorch does not have: every group has a row with the reason."""
    out = tmp_path / "gpu.json"
    words = ["--device", "nowhere", "--models", "ViT-Ti", "--dtypes", "float32", "--parts", "parity", "-o", str(out)]
    done = subprocess.run([sys.executable, "-W", "ignore", str(SCRIPT), *words, "--seconds", "40"], capture_output=True)
    rows = json.loads(out.read_text())["rows"]
    assert done.returncode == 1 and len(rows) > 1
    assert not any(row["ok"] for row in rows) and all(row["why"] for row in rows)
