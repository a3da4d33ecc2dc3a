"""A fault in block k is found in block k."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from cbsurgeon import graph
from cbsurgeon.checks import bisect, end_nodes, verify
from cbsurgeon.deploy import export_onnx
from cbsurgeon.errors import CheckFailed, UsageError
from cbsurgeon.models.model import Model
from tests.checks import faults
from tests.deploy import networks


@cache
def right(name: str) -> Model:
    return faults.planted(name)


@pytest.mark.parametrize("fault", list(faults.FAULTS))
@pytest.mark.parametrize(("name", "block"), [("vit", 0), ("vit", 2), ("mixer", 5), ("swin", 1)])
def test_the_planted_block_is_returned(name: str, block: int, fault: str) -> None:
    found = bisect(right(name), faults.planted(name, block, faults.FAULTS[fault]))
    assert found.block == faults.block_path(name, block), str(found)
    assert found.before == 0.0
    assert found.after is not None and found.after > 0.0
    assert found.would_pass_at == found.after


@pytest.mark.parametrize("name", ["vit", "swin", "mixer"])
def test_nothing_is_found_where_nothing_is_wrong(name: str, tmp_path: Path) -> None:
    path = export_onnx(right(name), tmp_path / "m.onnx").path
    assert bisect(right(name), path)
    assert bisect(right(name), right(name), backends=(None, "folded"))


def test_an_exported_fault_is_found_by_verify(tmp_path: Path) -> None:
    path = export_onnx(faults.planted("vit", 1, faults.OnePerCent), tmp_path / "m.onnx").path
    blocks = end_nodes(graph.inspect(right("vit")))
    found = verify(right("vit"), path, batches=(2,), bisect=True, blocks=blocks)
    assert found.first_bad_block == "blocks.1.mlp"
    with pytest.raises(CheckFailed) as caught:
        found.raise_if_failed()
    assert "blocks.1.mlp" in caught.value.where
    assert found.to_dict()["first_bad_block"] == "blocks.1.mlp"


@pytest.mark.parametrize(("name", "block"), [("vit", 1), ("swin", 2)])
def test_a_stale_bias_after_folding_is_found(name: str, block: int, tmp_path: Path) -> None:
    """Halve the weight and forget the bias: double that bias in a correct folded file."""
    path = export_onnx(right(name), tmp_path / "m.onnx").path
    proto = onnx.load(path)
    bias = faults.LAYOUTS[name][block][0].replace("drop2", "fc2.bias")
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == bias)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values + 0.01).astype("float32"), bias))
    onnx.save(proto, path)
    assert bisect(right(name), path).block == faults.block_path(name, block)


def test_an_overflow_in_float16_is_found(tmp_path: Path) -> None:
    model = faults.planted("vit", 1, faults.Overflowing)
    path = export_onnx(model, tmp_path / "m.onnx", dtype="float16", fold=False).path
    found = verify(right("vit"), path, batches=(2,), bisect=True)
    assert found.first_bad_block == "blocks.1", str(found)


def test_other_models_are_told_apart() -> None:
    with pytest.raises(CheckFailed) as caught:
        bisect(right("vit"), networks.plain("bert"), inputs=graph.capture(right("vit")).with_batch(2))
    assert caught.value.code == "CB-BISECT-04"


def test_refusals(tmp_path: Path) -> None:
    path = export_onnx(right("vit"), tmp_path / "m.onnx").path
    with pytest.raises(UsageError) as caught:
        bisect(path, path)
    assert caught.value.code == "CB-BISECT-01"
    with pytest.raises(UsageError) as caught:
        bisect(right("vit"), tmp_path / "m.engine")
    assert caught.value.code == "CB-BISECT-02"
    with pytest.raises(UsageError) as caught:
        bisect(right("vit"), right("vit"), blocks=[("nowhere", "blocks.9")])
    assert caught.value.code == "CB-BISECT-03"
