"""ONNX files that a program wrote wrongly or maliciously: refused with a reason, by every command that reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cbsurgeon.deploy.onnx import file as onnx_file
from cbsurgeon.deploy.onnx import walking
from cbsurgeon.errors import InputFileError
from tests.cli.running import run

EYE = numpy.eye(4, dtype="float32")


def value(name: str, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model(nodes: list[Any], initializers: list[Any], **more: Any) -> Any:
    """A model with the input x [batch, 4] and the output y [batch, 4]."""
    graph = helper.make_graph(nodes, "g", [value("x", ["batch", 4])], [value("y", ["batch", 4])], initializers)
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("my", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=9, **more)


def tensor(*dims: int, location: str = "") -> Any:
    found = TensorProto()
    found.name, found.data_type = "w", TensorProto.FLOAT
    found.dims.extend(dims)
    if location:
        found.data_location = TensorProto.EXTERNAL
        entry = found.external_data.add()
        entry.key, entry.value = "location", location
    return found


def product(weights: Any) -> Any:
    return model([helper.make_node("MatMul", ["x", "w"], ["y"])], [weights])


def constant(weights: Any) -> list[Any]:
    """Nodes that multiply with a constant."""
    node = helper.make_node("Constant", [], ["w"])
    attribute = node.attribute.add()
    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
    attribute.t.CopyFrom(weights)
    return [node, helper.make_node("MatMul", ["x", "w"], ["y"])]


def sparse_constant(location: str) -> Any:
    node = helper.make_node("Constant", [], ["w"])
    attribute = node.attribute.add()
    attribute.name, attribute.type = "sparse_value", onnx.AttributeProto.SPARSE_TENSOR
    attribute.sparse_tensor.values.CopyFrom(tensor(4, location=location))
    attribute.sparse_tensor.indices.CopyFrom(numpy_helper.from_array(numpy.arange(0, 16, 5), "indices"))
    attribute.sparse_tensor.dims.extend([4, 4])
    return model([node, helper.make_node("MatMul", ["x", "w"], ["y"])], [])


def in_a_function(weights: Any) -> Any:
    domains = [helper.make_opsetid("", 20)]
    function = helper.make_function("my", "F", ["x"], ["y"], constant(weights), domains)
    return model([helper.make_node("F", ["x"], ["y"], domain="my")], [], functions=[function])


def in_a_subgraph(weights: Any, name: str = "t") -> Any:
    """A branch of a condition; ``name`` is its only value."""
    branch = helper.make_graph([helper.make_node("Relu", ["x"], [name])], "b", [], [value(name, [])], [weights])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["e"])], "o", [], [value("e", [])])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other)
    return model([node], [numpy_helper.from_array(numpy.array(True), "c")])


OUTSIDE: dict[str, Callable[[str], Any]] = {
    "an initialiser": lambda name: product(tensor(4, 4, location=name)),
    "a constant": lambda name: model(constant(tensor(4, 4, location=name)), []),
    "a sparse constant": sparse_constant,
    "a function": lambda name: in_a_function(tensor(4, 4, location=name)),
    "a subgraph": lambda name: in_a_subgraph(tensor(4, 4, location=name)),
}


@pytest.mark.parametrize("holder", OUTSIDE)
@pytest.mark.parametrize("name", ["/etc/passwd", "../w.bin", "sub/../../w.bin", "link/w.bin", "*/_ORT_MEM_ADDR_/*"])
def test_weights_of_another_folder_are_not_read(tmp_path: Path, holder: str, name: str) -> None:
    (tmp_path / "w.bin").write_bytes(EYE.tobytes())
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path)
    file = tmp_path / "here" / "m.onnx"
    file.write_bytes(OUTSIDE[holder](name).SerializeToString())
    with pytest.raises(InputFileError, match="CB-ONNX-05"):
        onnx_file.load(file)


def renamed(proto: Any) -> bytes:
    """Bytes of a model whose value ``tt`` has a name that is not UTF-8."""
    text: bytes = proto.SerializeToString()
    assert b"\x02tt" in text
    return text.replace(b"\x02tt", b"\x02t\xff")


def calling(*bodies: list[str]) -> Any:
    """A model that calls the function F0; the body of each function is a chain of other functions or operators."""
    functions = []
    for number, body in enumerate(bodies):
        names = ["a", *(f"t{place}" for place in range(len(body) - 1)), "b"]
        nodes = [
            helper.make_node(kind, [names[place]], [names[place + 1]], domain="my" if kind.startswith("F") else "")
            for place, kind in enumerate(body)
        ]
        domains = [helper.make_opsetid("", 20), helper.make_opsetid("my", 1)]
        functions.append(helper.make_function("my", f"F{number}", ["a"], ["b"], nodes, domains))
    return model([helper.make_node("F0", ["x"], ["y"], domain="my")], [], functions=functions)


def test_nodes_of_functions_are_counted() -> None:
    assert walking.expanded(calling(["F1", "Relu", "F1"], ["Relu", "F2"], ["Neg", "Relu"])) == 7
    assert walking.expanded(in_a_subgraph(tensor(4, 4))) == 3


def without_outputs() -> bytes:
    proto = product(numpy_helper.from_array(EYE, "w"))
    del proto.graph.output[:]
    return bytes(proto.SerializeToString())


def typed(where: str, kind: int) -> bytes:
    """A model with an element type that does not exist."""
    weights = numpy_helper.from_array(EYE, "w")
    weights.data_type = kind if where in ("an initialiser", "a constant") else weights.data_type
    proto = model(constant(weights), []) if where == "a constant" else product(weights)
    proto.graph.value_info.append(value("z", [4]))
    values = {"the input": proto.graph.input, "the output": proto.graph.output, "a value": proto.graph.value_info}
    if where in values:
        values[where][0].type.tensor_type.elem_type = kind
    return bytes(proto.SerializeToString())


def resized(change: Callable[[bytes], bytes], large: bool = False) -> bytes:
    """A model whose weights have more or fewer bytes than their shape needs."""
    weights = numpy_helper.from_array(numpy.zeros((4, 1 << 17), numpy.float32) if large else EYE, "w")
    weights.raw_data = change(weights.raw_data)
    return bytes(product(weights).SerializeToString())


WRONG: dict[str, Callable[[], bytes]] = {
    "a missing byte": lambda: resized(lambda data: data[:-1]),
    "a byte too many": lambda: resized(lambda data: data + b"0"),
    "no bytes": lambda: resized(lambda data: b""),
    "half of a large tensor": lambda: resized(lambda data: data[: len(data) // 2], large=True),
    "twice a large tensor": lambda: resized(lambda data: data + data, large=True),
    "a negative size": lambda: product(tensor(-4, 4)).SerializeToString(),
    "a negative size in a subgraph": lambda: in_a_subgraph(tensor(-4, 4)).SerializeToString(),
    "a negative size in a constant": lambda: model(constant(tensor(-4, 4)), []).SerializeToString(),
    "a negative size in a function": lambda: in_a_function(tensor(-4, 4)).SerializeToString(),
    "a name in a subgraph": lambda: renamed(in_a_subgraph(numpy_helper.from_array(EYE, "w"), "tt")),
    "500 axes": lambda: product(tensor(*[1 << 40] * 500)).SerializeToString(),
    "2 ** 60 values": lambda: product(tensor(1 << 30, 1 << 30)).SerializeToString(),
    "a function that calls itself": lambda: calling(["F0"]).SerializeToString(),
    "functions that call each other": lambda: calling(["F1", "Relu"], ["F0"]).SerializeToString(),
    "2 ** 60 calls": lambda: calling(*([f"F{n + 1}"] * 2 for n in range(60)), ["Relu"]).SerializeToString(),
    "no outputs": without_outputs,
    **{
        f"type {kind} of {where}": partial(typed, where, kind)
        for where in ("an initialiser", "a constant", "the input", "the output", "a value")
        for kind in (77, -4)
    },
    "no type of an initialiser": partial(typed, "an initialiser", 0),
    "two initialisers of one name": lambda: model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [numpy_helper.from_array(EYE, "w"), numpy_helper.from_array(-EYE, "w")],
    ).SerializeToString(),
}


@pytest.mark.parametrize("fault", WRONG)
@pytest.mark.parametrize("verb", ["audit", "verify", "inspect"])
def test_a_damaged_model_is_named(tmp_path: Path, fault: str, verb: str) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(WRONG[fault]())
    found = run(verb, file, *([file] if verb == "verify" else []))
    assert found.code == 2 and "CB-ONNX-02" in found.err


@pytest.mark.parametrize(
    "array",
    [
        EYE,
        numpy.zeros((4, 0), numpy.float32),
        numpy.ones((3, 5), bool),
        numpy.ones((4, 1 << 17), numpy.float32),
        numpy.array(2, numpy.int64),
    ],
    ids=["square", "empty", "bool", "large", "scalar"],
)
def test_data_that_fit_their_shape_are_accepted(tmp_path: Path, array: Any) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(
        model([helper.make_node("Identity", ["w"], ["y"])], [numpy_helper.from_array(array, "w")]).SerializeToString()
    )
    assert [tuple(each.dims) for each in onnx_file.load(file).graph.initializer] == [array.shape]


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4, TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN])
def test_types_of_several_values_per_byte_are_accepted(tmp_path: Path, kind: int) -> None:
    weights = helper.make_tensor("w", kind, [3, 3], numpy.ones(9), raw=False)
    packed = numpy_helper.from_array(numpy_helper.to_array(weights), "w")
    assert packed.data_type == kind and packed.HasField("raw_data")
    file = tmp_path / "m.onnx"
    file.write_bytes(model([helper.make_node("Identity", ["w"], ["y"])], [packed]).SerializeToString())
    assert len(onnx_file.load(file).graph.initializer) == 1


NODES: dict[str, Any] = {
    "no operand": helper.make_node("MatMul", [], ["y"]),
    "nothing joined": helper.make_node("Concat", [], ["y"], axis=0),
    "padding as an attribute of an old version": helper.make_node("Pad", ["x"], ["y"], pads=[1 << 62] * 4),
    "more values than memory": helper.make_node("Expand", ["x", "large"], ["y"]),
    "an unknown axis": helper.make_node("Softmax", ["x"], ["y"], axis=77),
    "a text for a number": helper.make_node("Gemm", ["x", "w"], ["y"], transA="x"),
    "no groups": helper.make_node("Conv", ["x", "w"], ["y"], group=0),
}


@pytest.mark.parametrize("node", NODES)
def test_a_node_that_no_runtime_can_run_is_an_error_or_uncounted(tmp_path: Path, node: str) -> None:
    large = numpy_helper.from_array(numpy.full(400, 1 << 40), "large")
    file = tmp_path / "m.onnx"
    file.write_bytes(model([NODES[node]], [numpy_helper.from_array(EYE, "w"), large]).SerializeToString())
    assert run("audit", file).code in (0, 2)
    assert run("verify", file, file).code in (1, 2)


def cast(kind: int, side: str) -> bytes:
    """A model whose input or output has an element type."""
    other = helper.make_tensor_value_info("y" if side == "output" else "x", kind, ["batch", 4])
    node = helper.make_node("Cast", ["x"], ["y"], to=kind if side == "output" else TensorProto.FLOAT)
    ends = ([value("x", ["batch", 4])], [other]) if side == "output" else ([other], [value("y", ["batch", 4])])
    graph = helper.make_graph([node], "g", *ends)
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11).SerializeToString()
    )


KINDS = {name: kind for name, kind in TensorProto.DataType.items() if kind}
COMPUTED = "FLOAT DOUBLE FLOAT16 INT64 INT32 INT16 INT8 UINT64 UINT32 UINT16 UINT8 BOOL".split()
"""Types for which ONNX Runtime has a Cast, and torch a tensor."""


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("name", KINDS)
def test_every_type_is_compared_or_refused(tmp_path: Path, name: str, side: str) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(cast(KINDS[name], side))
    found = run("verify", file, file)
    assert found.code == 0 if name in COMPUTED else found.code in (0, 2)
    assert found.code == 0 or "CB-RUN-05" in found.err, found.err


def lists() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        "g",
        [value("x", ["batch", 4])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lists, "output y is seq(tensor(float))"),
        (partial(cast, TensorProto.STRING, "input"), "input x is tensor(string)"),
        (partial(cast, TensorProto.INT4, "output"), "output y is tensor(int4)"),
        (
            lambda: model(
                [helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])],
                [numpy_helper.from_array(numpy.array([1 << 20, 1 << 20]), "s")],
            ).SerializeToString(),
            "",
        ),
    ],
)
def test_what_cannot_be_run_cannot_be_timed(tmp_path: Path, content: Callable[[], bytes], why: str) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(content())
    found = run("bench", file, file, "--budget", "1")
    assert found.code == 2 and "CB-RUN-05" in found.err and why in " ".join(found.err.split())


@pytest.mark.parametrize(
    "ends", [[5, 1], [True, False], [0, 10**30], [0, (1 << 63) - 1], [-(1 << 63) - 1, 0], [0.0, 1]]
)
def test_a_range_of_integers_that_is_none(tmp_path: Path, ends: list[Any]) -> None:
    proto = product(numpy_helper.from_array(EYE, "w"))
    entry = proto.metadata_props.add()
    entry.key, entry.value = "cbsurgeon", json.dumps({"schema": "cbsurgeon.onnx/1", "integer_inputs": {"x": ends}})
    file = tmp_path / "m.onnx"
    file.write_bytes(proto.SerializeToString())
    found = run("verify", file, file)
    assert found.code == 2 and "CB-ONNX-03" in found.err
