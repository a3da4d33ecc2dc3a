"""Every graph and every tensor of a parsed ONNX model, those inside subgraphs and functions included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def graphs(proto: Any) -> Iterator[Any]:
    """Yield the main graph, the functions, the graphs of training, and the subgraphs of all of them."""
    pending = [proto.graph, *proto.functions]
    for training in proto.training_info:
        pending += [training.initialization, training.algorithm]
    while pending:
        graph = pending.pop()
        yield graph
        for attribute in attributes(graph):
            pending += [attribute.g] if attribute.HasField("g") else []
            pending += attribute.graphs


def attributes(graph: Any) -> Iterator[Any]:
    """Yield the attributes of a graph's nodes, and the default attributes of a function."""
    yield from (attribute for node in graph.node for attribute in node.attribute)
    yield from getattr(graph, "attribute_proto", ())


def tensors(graph: Any) -> Iterator[Any]:
    """Yield the tensors of one graph: initialisers and constants, also the parts of sparse ones."""
    sparse = list(getattr(graph, "sparse_initializer", ()))
    yield from getattr(graph, "initializer", ())
    for attribute in attributes(graph):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        sparse += [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
        sparse += attribute.sparse_tensors
    for one in sparse:
        yield from (one.values, one.indices)


def values(graph: Any) -> Iterator[Any]:
    """Yield the declared inputs, outputs and intermediate values of one graph; those of a function have no types."""
    for name in ("input", "output", "value_info"):
        yield from (value for value in getattr(graph, name, ()) if not isinstance(value, str))


def expanded(proto: Any) -> int:
    """Return the number of nodes of a model in which every call of a function is replaced by the function's nodes.

    Raises:
        ValueError: a function calls itself, directly or through others.
    """
    functions = {(function.domain, function.name): function for function in proto.functions}
    called = {key: [(node.domain, node.op_type) for node in _nodes(function)] for key, function in functions.items()}
    sizes: dict[tuple[str, str], int] = {}
    for start in called:
        pending, open_calls = [start], set[tuple[str, str]]()
        while pending:
            key = pending[-1]
            missing = [one for one in set(called[key]) if one in called and one not in sizes]
            if key in sizes or not missing:
                sizes.setdefault(key, sum(sizes.get(one, 1) for one in called[key]))
                open_calls.discard(key)
                pending.pop()
            elif key in open_calls:
                raise ValueError(f"the function {key[1]!r} calls itself")
            else:
                open_calls.add(key)
                pending += missing
    return sum(sizes.get((node.domain, node.op_type), 1) for node in _nodes(proto.graph))


def _nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of its subgraphs."""
    pending = [graph]
    while pending:
        for node in pending.pop().node:
            yield node
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs
