"""The batch axis of an exported graph: called ``batch`` wherever it appears, or fixed at one size."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from cbsurgeon.graph import Program

BATCH = "batch"


def name_batch(model: Any, program: Program) -> None:
    """Rename torch's symbol for the batch to ``batch``, in every size that contains it.

    Args:
        model: an ``onnx_ir`` model; edited in place.
        program: the program it was exported from.
    """
    pattern = re.compile("|".join(rf"\b{re.escape(symbol)}\b" for symbol in sorted(_symbols(program))) or "(?!)")
    _resize(model, lambda size: pattern.sub(BATCH, size))


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


def _symbols(program: Program) -> set[str]:
    """Return torch's symbols for the batch, such as ``s77``."""
    return {
        str(node.meta["val"].shape[program.batch_axes[node.name]])
        for node in program.exported.graph.nodes
        if node.op == "placeholder" and node.name in program.batch_axes
    }
