"""The dynamic axes of an exported graph: rename them to ``batch``, ``height`` and ``width``, or fix the batch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from cbsurgeon.graph import Program
from cbsurgeon.graph.capture.image_size import IMAGE_AXES

BATCH = "batch"
SIDES = {2: "height", 3: "width"}
"""Name of each axis of an image that may be dynamic."""


def name_sizes(model: Any, program: Program) -> None:
    """Rename torch's symbols to ``batch``, ``height`` and ``width``, in every size that contains them.

    Args:
        model: an ``onnx_ir`` model; edited in place.
        program: the program it was exported from.
    """
    names = _symbols(program)
    pattern = re.compile("|".join(rf"\b{re.escape(symbol)}\b" for symbol in sorted(names)) or "(?!)")
    _resize(model, lambda size: pattern.sub(lambda found: names[found[0]], size))


def dynamic_sizes(program: Program) -> dict[str, int]:
    """Return the size in the example of ``height`` and ``width``, if they are dynamic."""
    return {
        name: int(program.example[node.name].shape[axis])
        for node in _inputs(program)
        for axis, name in SIDES.items()
        if _is_dynamic(node, axis)
    }


def fix_batch(model: Any, batch: int) -> None:
    """Fix the batch size, and fold the shape arithmetic that depends on it into constants.

    Args:
        model: an ``onnx_ir`` model whose batch is named; edited in place.
        batch: samples per run.
    """
    import sympy
    from onnxscript import optimizer

    def size(text: str) -> int | str:
        result = sympy.sympify(text, locals={BATCH: sympy.Integer(batch)})
        return int(result) if result.is_Integer else text

    _resize(model, size)
    optimizer.fold_constants(model)
    optimizer.remove_unused_nodes(model)


def _resize(model: Any, size: Callable[[str], int | str]) -> None:
    for value in _values(model):
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int) and dim.value is not None:
                value.shape[axis] = size(str(dim.value))


def _values(model: Any) -> Iterator[Any]:
    for graph in (model.graph, *model.functions.values()):
        yield from graph.inputs
        for node in graph:
            yield from node.outputs


def _symbols(program: Program) -> dict[str, str]:
    """Return torch's symbols for dynamic axes, such as ``s77``, with their names."""
    found: dict[str, str] = {}
    for node in _inputs(program):
        shape = node.meta["val"].shape
        found |= {str(shape[axis]): name for axis, name in SIDES.items() if _is_dynamic(node, axis)}
        if node.name in program.batch_axes:
            found[str(shape[program.batch_axes[node.name]])] = BATCH
    return found


def _inputs(program: Program) -> Iterator[Any]:
    return (node for node in program.exported.graph.nodes if node.op == "placeholder" and node.name in program.example)


def _is_dynamic(node: Any, axis: int) -> bool:
    """Whether an axis of an image input is dynamic."""
    shape = node.meta["val"].shape
    return len(shape) == IMAGE_AXES and not isinstance(shape[axis], int)
