"""What ONNX Runtime makes of a folded model: one reduction and one addition per site, and no fusion lost."""

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
def exported(name: str, form: str, folder: Path) -> tuple[Path, int]:
    model = networks.plain(name) if form == "base" else networks.edited(name)
    path = folder / f"{name}-{form}.onnx"
    made = export_onnx(model, path, fold=form == "folded")
    return path, len(made.sites)


def operators(path: Path, static: bool) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    optimized = path.with_suffix(".optimized.onnx")
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 4
    if static:
        options.add_free_dimension_override_by_name("batch", 2)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(str(optimized)).graph.node)


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("name", NAMES)
def test_one_reduction_and_one_addition_per_site(name: str, static: bool, folder: Path) -> None:
    base, _ = exported(name, "base", folder)
    path, sites = exported(name, "folded", folder)
    before, after = operators(base, static), operators(path, static)
    assert sites > 0
    products = ("MatMul", "Gemm")
    # A reduction over tokens is a ReduceMean, or a product with a row of 1 / tokens.
    reductions = sum(after[operator] - before[operator] for operator in ("ReduceMean", *products))
    assert reductions == sites
    # A Gemm is a product and an addition: with a fixed batch the base adds the bias in there.
    additions = sum(after[operator] - before[operator] for operator in ("Add", "Gemm"))
    assert additions <= sites
    assert after["Mul"] == before["Mul"], "nothing is left to multiply"
    # A Gemm of three axes stands between two Reshapes; written out, it is as many operators less as additions more.
    assert sum(after.values()) - sum(before.values()) <= 2 * sites
    for operator in FUSED:
        assert after[operator] == before[operator], f"{operator}: {before[operator]} before, {after[operator]} after"


def test_without_folding_it_is_more(folder: Path) -> None:
    """The counts above can fail: the line as written adds two multiplications per site, and costs a fusion."""
    base, _ = exported("vit", "base", folder)
    path, _ = exported("vit", "plain", folder)
    before, after = operators(base, False), operators(path, False)
    sites = 2
    assert after["Mul"] - before["Mul"] == 2 * sites
    assert after["Add"] - before["Add"] == sites + 1
