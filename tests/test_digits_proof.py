"""The proof on digits, with random images and a few steps: its document agrees with the files of its runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from scipy import stats

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "digits_proof.py"

ROUNDED = 1e-5
"""The document keeps five digits after the point."""


@pytest.mark.slow
def test_the_document_has_the_results_of_the_runs(tmp_path: Path) -> None:
    numbers = numpy.random.default_rng(0)
    arrays = {}
    for name, count in (("train", 64), ("validate", 20), ("test", 40)):
        arrays[f"{name}_x"] = numbers.normal(size=(count, 1, 28, 28)).astype("float32")
        arrays[f"{name}_y"] = numbers.integers(0, 10, count)
    numpy.savez(tmp_path / "digits.npz", **arrays)
    words = ["--work", tmp_path, "--results", tmp_path / "results", "--seeds", 2, "--steps", 3, "--ops", "cb"]
    subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], cwd=tmp_path, check=True, capture_output=True)
    found = json.loads((tmp_path / "results" / "digits_proof.json").read_text())
    assert found["runs_not_finished"] == 0 and len(found["runs"]) == 4
    left = {
        (cell, seed): json.loads((tmp_path / f"sweep/runs/{cell}/seed-{seed}/metrics.json").read_text())
        for cell in found["cells"]
        for seed in (0, 1)
    }
    assert {(cell, seed): value for cell, seed, value in found["runs"]} == {
        key: one["accuracy"] for key, one in left.items()
    }
    loss = found["cells"]["cb-end-mlp-upper"]["loss"]["difference"]
    by_hand = stats.ttest_rel(
        *([left[cell, seed]["loss"] for seed in (0, 1)] for cell in ("cb-end-mlp-upper", "baseline"))
    ).confidence_interval()
    assert loss["ci95"] == pytest.approx(list(by_hand), abs=ROUNDED)
    for cell in found["cells"].values():
        assert cell["seeds"] == [0, 1] and len(cell["entropy"]["mean"]) == 8
        assert all(0 < value <= found["entropy_bound"] + ROUNDED for value in cell["entropy"]["mean"])
    for name in ("digits_accuracy.svg", "digits_entropy.svg"):
        assert (tmp_path / "results" / name).read_text().startswith("<?xml")
