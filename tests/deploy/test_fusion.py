"""ONNX Runtime executes a folded model with one reduction and one addition per site, and loses no fusion."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import onnx
import onnxruntime
import pytest

from cbsurgeon.deploy import export_onnx
from tests.deploy import networks

NAMES = ["vit", "deit", "swin", "mixer", "pvt_v2", "bert"]
FUSED = ("SkipLayerNormalization", "LayerNormalization", "BiasGelu", "FusedGemm", "Softmax")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fusion")


@cache
def exported(name: str, form: str, batch: int | None, folder: Path) -> tuple[Path, int]:
    model = networks.plain(name) if form == "base" else networks.edited(name)
    path = folder / f"{name}-{form}-{batch}.onnx"
    made = export_onnx(model, path, fold=form == "folded", batch=batch)
    return path, len(made.sites)


def operators(path: Path, batch: int | None = None) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    optimized = path.with_suffix(".optimized.onnx")
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 4
    if batch is not None:
        options.add_free_dimension_override_by_name("batch", batch)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(str(optimized)).graph.node)


@pytest.mark.thin(3)
@pytest.mark.parametrize("batch", [None, 1], ids=["open", "fixed"])
@pytest.mark.parametrize("name", NAMES)
def test_one_reduction_and_one_addition_per_site(name: str, batch: int | None, folder: Path) -> None:
    base, _ = exported(name, "base", batch, folder)
    path, sites = exported(name, "folded", batch, folder)
    added = operators(path)
    added.subtract(operators(base))
    assert sites > 0
    # A reduction over tokens is a ReduceMean, or a product with a row of 1 / tokens.
    assert added["ReduceMean"] + added["MatMul"] == sites
    assert 0 <= added["Add"] <= sites
    others = {operator: count for operator, count in added.items() if operator not in ("ReduceMean", "MatMul", "Add")}
    assert not any(others.values()), "every fusion of the model is kept, and nothing else came in"


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_fixed_by_the_session(name: str, folder: Path) -> None:
    """A file of open batch is written for that: under a session's fixed batch, a Gemm of the base may lie open."""
    base, _ = exported(name, "base", None, folder)
    path, sites = exported(name, "folded", None, folder)
    added = operators(path, 2)
    added.subtract(operators(base, 2))
    assert added["ReduceMean"] + added["MatMul"] + added["Gemm"] == sites
    assert added["Add"] + added["Gemm"] <= sites, "a Gemm is a product and an addition"
    assert not any(added[operator] for operator in FUSED)


def test_without_folding_there_are_more_nodes(folder: Path) -> None:
    """The counts above can fail: the line as written adds two multiplications per site, and costs a fusion."""
    base, _ = exported("vit", "base", None, folder)
    path, _ = exported("vit", "plain", None, folder)
    before, after = operators(base), operators(path)
    sites = 2
    assert after["Mul"] - before["Mul"] == 2 * sites
    assert after["Add"] - before["Add"] == sites + 1
