"""Counting ONNX files: nodes by hand, an exported model against the model, and files that cannot be counted."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch import nn

import cbsurgeon as cbs
from cbsurgeon.checks.cost.auditing import audit, count_file
from cbsurgeon.checks.cost.counts import QUANTITIES, Tally
from cbsurgeon.checks.cost.onnx import graph
from cbsurgeon.checks.cost.roofline import shares
from cbsurgeon.errors import CBSurgeonError
from cbsurgeon.models.model import Model
from cbsurgeon.operators import CB

onnx = pytest.importorskip("onnx", reason="reading ONNX files needs the extra `onnx`")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

N, C, H = 17, 192, 768
DEPTH = 2


def written(
    path: Path,
    nodes: list[Any],
    inputs: dict[str, list[int | str]],
    weights: dict[str, Any],
    outputs: list[str],
    opset: int = 20,
) -> Path:
    """An ONNX file of a few nodes."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), path)
    return path


def numbers(*shape: int) -> Any:
    return numpy.random.default_rng(0).standard_normal(shape).astype(numpy.float32)


def test_a_small_file_by_hand(tmp_path: Path) -> None:
    """Two products, a bias, an activation and a mean, written out for a batch of three."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("ReduceMean", ["r", "axes"], ["p"], keepdims=0),
        helper.make_node("Gemm", ["p", "v", "c"], ["y"], transB=1),
    ]
    weights = {"w": numbers(5, 4), "b": numbers(4), "v": numbers(2, 4), "c": numbers(2), "axes": numpy.array([1])}
    path = written(tmp_path / "m.onnx", nodes, {"x": ["batch", 7, 5]}, weights, ["y"])
    found, dtype = count_file(path, batch=3)
    wide, pooled, out = 3 * 7 * 4, 3 * 4, 3 * 2
    assert dtype == "float32" and found.uncounted == {}
    assert found.by_operator == {
        "matmul": Tally(0, wide * 5, 2 * wide * 5, 4 * (3 * 7 * 5 + 20 + wide), 4 * (3 * 7 * 5 + 20 + wide)),
        "add": Tally(0, 0, wide, 4 * (2 * wide + 4), 0),
        "relu": Tally(0, 0, wide, 4 * 2 * wide, 0),
        "mean": Tally(0, pooled, wide + pooled, 4 * (wide + pooled) + 8, 4 * (wide + pooled) + 8),
        "mm": Tally(0, out * 4, 2 * out * 4, 4 * (pooled + 8 + 2 + out), 4 * (pooled + 8 + 2 + out)),
    }
    assert found.total.params == 20 + 4 + 8 + 2
    assert found.weight_bytes == 4 * (20 + 4 + 8 + 2) + 8


def test_shapes_are_inferred_through_shape_arithmetic(tmp_path: Path) -> None:
    """A reshape to ``[batch, 6]`` whose batch is read from the tensor, as exporters write it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["size"], start=0, end=1),
        helper.make_node("Concat", ["size", "six"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    weights = {"six": numpy.array([6]), "w": numbers(6, 5)}
    found, _ = count_file(written(tmp_path / "m.onnx", nodes, {"x": ["n", 2, 3]}, weights, ["y"]), batch=4)
    assert found.uncounted == {}
    assert found.total.flops == 4 * 6 * 5


@pytest.mark.parametrize(
    ("node", "inputs", "weights", "flops", "operations"),
    [
        (("Conv", {"group": 2}), [1, 4, 8, 8], {"w": numbers(6, 2, 3, 3)}, 6 * 36 * 18, 2 * 6 * 36 * 18),
        (("LayerNormalization", {}), [1, 3, 8], {"w": numbers(8), "b": numbers(8)}, 24, 24 * 7),
        (("Softmax", {}), [1, 3, 8], {}, 0, 24 * 5),
        (("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}), [1, 3, 8, 8], {}, 48, 48 * 4),
        (("Mul", {}), [1, 3, 8], {"w": numbers(8)}, 24, 24),
        (("Transpose", {"perm": [0, 2, 1]}), [1, 3, 8], {}, 0, 0),
    ],
)
def test_single_nodes(
    tmp_path: Path, node: tuple[str, Any], inputs: list[int | str], weights: Any, flops: int, operations: int
) -> None:
    made = helper.make_node(node[0], ["x", *weights], ["y"], **node[1])
    found, _ = count_file(written(tmp_path / "m.onnx", [made], {"x": inputs}, weights, ["y"]))
    assert (found.total.flops, found.total.operations) == (flops, operations)
    assert found.uncounted == {}


@pytest.mark.parametrize("merged", [True, False], ids=["merged heads", "an axis of heads"])
def test_attention_of_grouped_heads(tmp_path: Path, merged: bool) -> None:
    """Four heads of queries share two of keys and values: 2 x 4 x 5 x 7 scores, of keys of width 3 and values of 5."""
    shapes = ((4, 5, 3), (2, 7, 3), (2, 7, 5))
    inputs: dict[str, list[int | str]] = {
        name: [2, tokens, heads * width] if merged else [2, heads, tokens, width]
        for name, (heads, tokens, width) in zip("qkv", shapes, strict=True)
    }
    heads = {"q_num_heads": 4, "kv_num_heads": 2} if merged else {}
    node = helper.make_node("Attention", list("qkv"), ["y"], **heads)
    found, _ = count_file(written(tmp_path / "m.onnx", [node], inputs, {}, ["y"], opset=23), batch=2)
    scores = 2 * 4 * 5 * 7
    products = scores * (3 + 5)
    assert (found.total.flops, found.total.operations) == (products, 2 * products + 6 * scores)
    assert found.uncounted == {}


def test_operators_without_a_rule_are_listed(tmp_path: Path) -> None:
    nodes = [helper.make_node("Det", ["x"], ["d"]), helper.make_node("FusedThing", ["d"], ["y"], domain="com.example")]
    path = written(tmp_path / "m.onnx", nodes, {"x": [1, 3, 3]}, {}, ["y"])
    proto = onnx.load(path)
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(proto, path)
    result = audit(str(path))
    assert result.a.uncounted == {"Det": 1, "com.example::FusedThing": 1}
    assert not result


@pytest.mark.parametrize(
    ("dims", "batch", "code"),
    [([4, 3], 1, "CB-AUDIT-05"), (["n", "m"], 1, "CB-AUDIT-05")],
)
def test_another_size_is_refused(tmp_path: Path, dims: list[int | str], batch: int, code: str) -> None:
    path = written(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], {"x": dims}, {}, ["y"])
    with pytest.raises(CBSurgeonError) as caught:
        count_file(path, batch=batch)
    assert caught.value.code == code


def test_a_fixed_batch_is_counted_at_its_own_size(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], {"x": [4, 3]}, {}, ["y"])
    assert count_file(path, batch=4)[0].total.operations == 12


def test_an_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CBSurgeonError) as caught:
        audit(tmp_path / "m.engine")
    assert caught.value.code == "CB-AUDIT-06"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model, Path, Path]:
    """A small ViT with distinct weights, the same with CB, and both as files."""
    timm = pytest.importorskip("timm")
    module = timm.create_model("deit_tiny_patch16_224", depth=DEPTH, img_size=64, num_classes=10).eval()
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.02)  # equal tensors are stored once
    plain = Model(module, (torch.randn(2, 3, 64, 64),))
    edited = cbs.insert(plain, cbs.plan(cbs.inspect(plain), layers="all"))
    folder = tmp_path_factory.mktemp("files")
    for name, model in (("plain", plain), ("edited", edited)):
        cbs.export(model, folder / f"{name}.onnx")
    return plain, edited, folder / "plain.onnx", folder / "edited.onnx"


def test_a_file_counts_as_its_model(exported: tuple[Model, Model, Path, Path]) -> None:
    """Matrix products, norms and parameters agree; the file scales queries and keys by a node of their own."""
    plain, _, file, _ = exported
    result = audit(plain, file)
    assert result.difference.params == 0
    assert result.difference.flops == DEPTH * 2 * N * C, "q and k are multiplied by the fourth root of the scale each"
    for name in ("layer_norm", "conv2d"):
        assert result.b.by_operator[name] == result.a.by_operator[name]
    assert list(result.b.by_block) == list(result.a.by_block)
    assert result.b.uncounted == {} and result


def test_an_operator_in_a_file_is_counted_as_exported(exported: tuple[Model, Model, Path, Path]) -> None:
    """Folded, CB is a product with a row of 1/N (N*C multiply-accumulates, by node) and an addition."""
    _, _, plain, edited = exported
    result = audit(plain, edited)
    assert [(item.op, item.tokens, item.channels) for item in result.b.inserted] == [("cb", N, C)] * DEPTH
    assert result.difference.params == 0
    assert result.difference.flops == DEPTH * N * C
    assert all(item.tally.flops == N * C for item in result.b.inserted)
    assert result.b.inserted[0].path == "blocks.0.mlp.context_broadcast"
    assert {row.form for row in shares(result)} == {"folded"}


def test_models_and_files_side_by_side(exported: tuple[Model, Model, Path, Path]) -> None:
    """The contract's fields stay those of A and B; every model has its totals and its difference to A."""
    result = cbs.audit(*exported)
    pair = cbs.audit(*exported[:2]).to_dict()
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    for quantity in QUANTITIES:
        assert document[quantity] == pair[quantity]
        first = document["models"][0][quantity]
        for model in document["models"][1:]:
            assert model["difference"][quantity] == model[quantity] - first
    assert [model["reference"] for model in document["models"]][2:] == [str(path) for path in exported[2:]]
    assert len(result.models) == 4 and document["models"][0]["difference"] is None
    for path in exported[2:]:
        assert str(path) in str(result)


def test_half_precision_halves_the_weights(exported: tuple[Model, Model, Path, Path], tmp_path: Path) -> None:
    plain, _, file, _ = exported
    cbs.export(plain, tmp_path / "half.onnx", dtype="float16")
    half, dtype = count_file(tmp_path / "half.onnx")
    full, _ = count_file(file)
    assert dtype == "float16"
    assert half.total.flops == full.total.flops
    assert half.total.params == full.total.params
    sizes = full.weight_bytes - 2 * full.total.params, half.weight_bytes
    assert abs(sizes[0] - sizes[1]) < 200, "shapes and single constants are all that does not halve"


def test_an_operator_inside_another_belongs_to_the_outer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = f"{CB.__module__}.{CB.__qualname__}"
    stack = {"blocks.0.context_broadcast": kind, "blocks.0.context_broadcast.inner": kind}
    site = {"path": "blocks.0", "tokens": 4, "channels": 8}
    monkeypatch.setattr(graph, "_stack", lambda node: stack)
    monkeypatch.setattr(graph, "metadata_of", lambda proto, path: {"recipes": [{"sites": [site]}]})
    node = SimpleNamespace(name="mean", op_type="ReduceMean")
    read: Any = SimpleNamespace(proto=SimpleNamespace(graph=SimpleNamespace(node=[node])), path=None, dtype="float32")
    (group,) = graph.OnnxGraph.groups(read)
    assert (group.path, group.nodes) == ("blocks.0.context_broadcast", ("mean",))
