"""Translating a captured program to an ONNX graph with ``torch.onnx``; errors name the node that failed."""

from __future__ import annotations

import re
from typing import Any

import torch

from cbsurgeon.deploy.quiet import quiet
from cbsurgeon.errors import ExportError
from cbsurgeon.graph import Program, aten


def translated(program: Program, opset: int) -> Any:
    """Translate a program; if onnxscript's optimizer fails or breaks the graph, do without it.

    onnxscript 0.7 merges successive ``Clip`` nodes. If two such pairs read the same tensor, the second merged node
    reads bounds that are not defined in the graph. It fails at a split into pieces whose size is the batch.

    Raises:
        ExportError: the exporter failed (CB-EXPORT-03).
    """
    from onnxscript import optimizer

    try:
        exported = _translate(program, opset)
    except ExportError as error:
        if not _in_optimizer(error):
            raise
        exported = _translate(program, opset, optimize=False)
    else:
        if _is_whole(exported.model.graph):
            return exported
        exported = _translate(program, opset, optimize=False)
        with quiet():
            optimizer.fold_constants(exported.model)
    with quiet():
        optimizer.remove_unused_nodes(exported.model)
    return exported


def _in_optimizer(error: BaseException) -> bool:
    """Whether one of the passes that simplify a translated graph failed, not the translation itself."""
    from onnx_ir.passes import PassError

    cause = error.__cause__
    return cause is not None and (isinstance(cause, PassError) or _in_optimizer(cause))


def _is_whole(graph: Any) -> bool:
    """Return whether every value read in the graph is an input, a weight, or the output of a node."""
    return all(
        value is None or value.producer() is not None or value.is_graph_input() or value.is_initializer()
        for node in graph
        for value in node.inputs
    )


def _translate(program: Program, opset: int, *, optimize: bool = True) -> Any:
    try:
        with quiet(), torch.no_grad():
            exported = torch.onnx.export(
                program.exported,
                (),
                input_names=list(program.input_names),
                output_names=list(program.output_names),
                opset_version=opset,
                dynamo=True,
                optimize=optimize,
                verbose=False,
            )
    except Exception as error:
        raise _refused(program, error) from error
    if exported is None:  # documented as possible for the older exporter only
        raise ExportError(
            "torch.onnx returned no model",
            code="CB-EXPORT-03",
            where=f"torch.onnx.export, opset {opset}",
            why=f"torch {torch.__version__} gave no reason",
            do="update torch",
        )
    return exported


def _refused(program: Program, error: BaseException) -> ExportError:
    """Return the error for a failed export: the innermost message names the operator, an outer one the node."""
    messages: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        messages.append(" ".join(str(cause).split()))
        cause = cause.__cause__
    text = " ".join(messages)
    node = re.search(r"translating node %(\w+)", text)
    operands = re.findall(r"%(\w+)", text[node.end() : node.end() + 300]) if node else []
    place = _place(program, node.group(1), operands) if node else program.prefix or "the whole model"
    return ExportError(
        "torch.onnx cannot export this model",
        code="CB-EXPORT-03",
        where=place,
        why=messages[-1][:300],
        do="try --opset 23, or replace that operation in the model's forward()",
    )


def _place(program: Program, name: str, operands: list[str]) -> str:
    """Describe a node and its module path; a node created by decomposition is found through its operands."""
    nodes = {node.name: node for node in program.exported.graph.nodes}
    node = nodes.get(name)
    if node is None:
        users = [user for operand in operands if operand in nodes for user in nodes[operand].users]
        stem = re.sub(r"_\d+$", "", name)
        node = next((user for user in users if stem in user.name), users[0] if users else None)
    path = aten.path(node) if node is not None else ""
    return f"node {name}" + (f", in {path}" if path else "")
