"""Integer inputs of an ONNX file that index a table: which indices the table has, read from the file's graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cbsurgeon.checks.parity.inputs.tables import common
from cbsurgeon.deploy.onnx import file as onnx_file

# Operator → positions of the operands whose elements, or constants, make up its result; None for all operands.
_PASSES: Mapping[str, tuple[int, ...] | None] = {
    "Cast": (0,), "Reshape": (0,), "Unsqueeze": (0,), "Squeeze": (0,), "Identity": (0,), "Flatten": (0,),
    "Slice": (0,), "Transpose": (0,), "Expand": (0,), "Clip": (0,), "Pad": (0,), "Mod": (0,), "Tile": (0,),
    "Where": (1, 2), "Max": None, "Min": None, "Concat": None,
}  # fmt: skip


def onnx_tables(path: Path) -> dict[str, range]:
    """Return integer input → the indices that are valid in every table of the file that it indexes.

    Raises:
        InputFileError: the file cannot be read.
    """
    graph = onnx_file.load(path).graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    inputs = {value.name for value in graph.input} - set(weights)
    made = {name: node for node in graph.node for name in node.output}
    found: dict[str, range] = {}
    for node in graph.node:
        rows = _rows(node, weights, made)
        for name in _origins(node.input[1], made) if rows > 1 else ():
            if name in inputs:
                found[name] = common(found.get(name), range(rows))
    return {name: valid for name, valid in found.items() if valid}


def _rows(node: Any, weights: Mapping[str, tuple[int, ...]], made: Mapping[str, Any]) -> int:
    """Return the number of rows of the table that a node reads by its second input; 0 if it reads none."""
    if node.op_type not in ("Gather", "GatherElements") or len(node.input) != 2:
        return 0
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    table = node.input[0]
    while table not in weights and table in made and made[table].op_type in ("Cast", "Identity"):
        table = made[table].input[0]
    sizes = weights.get(table, ())
    return sizes[axis] if -len(sizes) <= axis < len(sizes) else 0


def _origins(name: str, made: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the values that a tensor of indices is computed from."""
    pending, seen = [name], set()
    while pending:
        here = pending.pop()
        if here in seen:
            continue
        seen.add(here)
        yield here
        node = made.get(here)
        if node is not None and node.op_type in _PASSES:
            places = _PASSES[node.op_type]
            pending += [one for at, one in enumerate(node.input) if one and (places is None or at in places)]
