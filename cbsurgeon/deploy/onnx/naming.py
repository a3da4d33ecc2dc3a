"""Names of ONNX nodes that people find in Netron and in profiles: where a node is in the model, and what it does."""

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

    An inserted operator's nodes are named by its steps, ``blocks.11.mlp/context_broadcast/mean``, in whatever form they
    are written; the model's own by their ONNX type, ``blocks.11.mlp.fc2/MatMul``. They are counted apart, so that the
    model's own nodes have the same names with and without operators.

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
    """Name of a node before numbering; of its type alone where the exporter noted no module.

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
    """The ATen operator a node was made from, such as ``mean``; empty where the exporter did not note it."""
    try:
        hierarchy = ast.literal_eval(notes.get("pkg.torch.onnx.class_hierarchy", "[]"))
    except (ValueError, SyntaxError):
        return ""
    parts = str(hierarchy[-1]).split(".") if hierarchy else []
    return parts[1].strip("_") if len(parts) > 1 and parts[0] == "aten" else ""
