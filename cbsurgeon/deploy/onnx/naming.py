"""Names of ONNX nodes, as shown in Netron and in profiles: the module path of a node and its operator."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping
from typing import Any

from cbsurgeon.deploy.folding.folds import AVERAGE
from cbsurgeon.deploy.onnx.metadata import module_path
from cbsurgeon.graph.occupants import ON_INPUT, ON_OUTPUT


def name_nodes(model: Any) -> None:
    """Name every node ``<module path>/<operator>``, numbered from the second one of a name.

    The nodes of an inserted operator are named by its steps, such as ``blocks.11.mlp/context_broadcast/mean``, in every
    form in which they are written. The model's own nodes are named by their ONNX type, such as
    ``blocks.11.mlp.fc2/MatMul``. The two are numbered separately, so that the model's own nodes have the same names
    with and without operators.

    Args:
        model: an ``onnx_ir`` model that still has the exporter's notes at its nodes; edited in place.
    """
    for graph in (model.graph, *model.functions.values()):
        taken: Counter[str] = Counter()
        for node in graph.all_nodes():
            name = node_name(node.op_type, node.metadata_props)
            taken[name] += 1
            node.name = name if taken[name] == 1 else f"{name}_{taken[name] - 1}"


def node_name(op_type: str, notes: Mapping[str, str]) -> str:
    """Return the name of a node before numbering; its type alone if the exporter recorded no module.

    >>> scopes = "['', 'blocks.0', 'blocks.0.context_broadcast', 'mean_3']"
    >>> hierarchy = "['Net', 'Block', 'CB', 'aten.mean.dim']"
    >>> notes = {"pkg.torch.onnx.name_scopes": scopes, "pkg.torch.onnx.class_hierarchy": hierarchy}
    >>> node_name("MatMul", notes)
    'blocks.0/context_broadcast/mean'
    """
    parts = [part for part in module_path(notes).split(".") if part and part != AVERAGE]
    place = next((place for place, part in enumerate(parts) if part in (ON_OUTPUT, ON_INPUT)), None)
    if place is None:
        return f"{'.'.join(parts)}/{op_type}" if parts else op_type
    return "/".join((".".join(parts[:place]), *parts[place:], _step(notes) or op_type)).lstrip("/")


def _step(notes: Mapping[str, str]) -> str:
    """Return the ATen operator that a node was made from, such as ``mean``; empty if the exporter did not record it."""
    try:
        hierarchy = ast.literal_eval(notes.get("pkg.torch.onnx.class_hierarchy", "[]"))
    except (ValueError, SyntaxError):
        return ""
    parts = str(hierarchy[-1]).split(".") if hierarchy else []
    return parts[1].strip("_") if len(parts) > 1 and parts[0] == "aten" else ""
