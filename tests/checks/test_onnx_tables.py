"""Which integer inputs of an ONNX file index a table, on files of a few nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest

from cbsurgeon.checks.parity.inputs.onnx_tables import onnx_tables

onnx = pytest.importorskip("onnx", reason="reading ONNX files needs the extra `onnx`")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

Nodes = list[Any]


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


CASES: dict[str, tuple[Nodes, dict[str, range]]] = {
    "a weight": ([node("Gather", "nine ids", "y")], {"ids": range(9)}),
    "the second axis": ([node("Gather", "nine ids", "y", axis=1)], {"ids": range(4)}),
    "the last axis": ([node("Gather", "nine ids", "y", axis=-2)], {"ids": range(9)}),
    "an axis that is not there": ([node("Gather", "nine ids", "y", axis=2)], {}),
    "elements": ([node("GatherElements", "nine ids", "y")], {"ids": range(9)}),
    "a weight of another type": (
        [node("Cast", "nine", "c", to=10), node("Identity", "c", "i"), node("Gather", "i ids", "y")], {"ids": range(9)},
    ),
    "a computed table": ([node("Relu", "nine", "r"), node("Gather", "r ids", "y")], {}),
    "an input as the table": ([node("Gather", "x ids", "y")], {}),
    "two tables": ([node("Gather", "nine ids", "y"), node("Gather", "five ids", "z")], {"ids": range(5)}),
    "ids of another type": ([node("Cast", "ids", "c", to=6), node("Gather", "nine c", "y")], {"ids": range(9)}),
    "ids in a row": ([node("Concat", "ids ids", "c", axis=0), node("Gather", "nine c", "y")], {"ids": range(9)}),
    "the greater ids": ([node("Max", "ids other", "m"), node("Gather", "nine m", "y")],
                        {"ids": range(9), "other": range(9)}),
    "chosen ids": ([node("Where", "flag ids other", "w"), node("Gather", "nine w", "y")],
                   {"ids": range(9), "other": range(9)}),
    "a sum of ids": ([node("Add", "ids other", "s"), node("Gather", "nine s", "y")], {}),
    "a table of one row": ([node("Gather", "one ids", "y")], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_tables_of_a_file(name: str, tmp_path: Path) -> None:
    nodes, expected = CASES[name]
    types = {"ids": TensorProto.INT64, "other": TensorProto.INT64, "flag": TensorProto.BOOL, "x": TensorProto.FLOAT}
    weights = {"nine": (9, 4), "five": (5, 4), "one": (1, 4)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(each, kind, ["n"]) for each, kind in types.items()],
        [helper.make_tensor_value_info(each.output[0], TensorProto.FLOAT, None) for each in nodes[-1:]],
        [numpy_helper.from_array(numpy.zeros(shape, numpy.float32), each) for each, shape in weights.items()],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    assert onnx_tables(path) == expected
