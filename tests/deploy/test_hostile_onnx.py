"""ONNX files that a program wrote wrongly or maliciously: refused with a reason, by every command that reads them."""

from __future__ import annotations

from collections.abc import Callable
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


WRONG: dict[str, Callable[[], bytes]] = {
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
