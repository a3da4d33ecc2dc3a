"""Find the attention scores of a graph and the masks and biases that are added to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import Dim

NEAR = 40
"""Nodes between attention scores and the softmax; the longest chain seen has eleven."""


@dataclass(frozen=True)
class Scores:
    """The scores of one attention, with their masks.

    Attributes:
        node: the softmax or the fused attention.
        read: the tensor that shows which keys are masked, keys on its last axis: the softmax's input, or the mask given
            to a fused attention.
        product: queries times keys; ``None`` in a fused attention and in a ``baddbmm``, which adds the mask to the
            product itself.
        masks: tensors that are added to the scores or select among them.
        keys: the axis of the keys; empty if the scores are not such a product, or the softmax is over another axis.
        steps: names of the operators between product and softmax.
        key: the tensor of the keys, if it is known.
    """

    node: fx.Node
    read: fx.Node
    product: fx.Node | None
    masks: tuple[fx.Node, ...]
    keys: Dim
    steps: tuple[str, ...] = ()
    key: fx.Node | None = None


def find_scores(flow: Flow, nodes: Iterable[fx.Node]) -> list[Scores]:
    """Return the scores of every attention among some nodes that has a mask or bias."""
    found: list[Scores] = []
    for node in nodes:
        name = aten.name(node)
        if name == "scaled_dot_product_attention":
            mask, key = aten.argument(node, 3, "attn_mask"), node.args[1]
            if isinstance(mask, fx.Node) and isinstance(key, fx.Node):
                found.append(Scores(node, mask, None, (mask,), flow.of(key)[-2], key=key))
        elif name in ("softmax", "_softmax"):
            read = aten.tensors(node)[0]
            beside, walk = _beside(flow, read)
            product = walk[-1] if aten.name(walk[-1]) in aten.MATMUL and walk[-1] not in flow.mixtures else None
            added = added_to_product(product) if product is not None else None
            last = aten.argument(node, 1, "dim") in (-1, len(flow.of(read)) - 1)
            keys = flow.of(product)[-1] if product is not None and last else ()
            key = _key_tensor(flow, product, keys) if product is not None else None
            if added is not None:
                beside, product = [*beside, added], None
            if beside:
                found.append(Scores(node, read, product, tuple(beside), keys, tuple(map(aten.name, walk)), key))
    return found


def _key_tensor(flow: Flow, product: fx.Node, keys: Dim) -> fx.Node | None:
    """The factor of a product that has the axis of the keys, if the other one does not have it."""
    factors = [one for one in flow.sources(product) if flow.plain(keys) in map(flow.plain, flow.of(one))]
    return factors[0] if keys and len(factors) == 1 else None


def added_to_product(node: fx.Node) -> fx.Node | None:
    """Return the tensor that ``baddbmm(added, queries, keys)`` adds to its product; ``None`` for other nodes.

    ``nn.MultiheadAttention`` lowers to this form when it gets a mask and returns its weights, which is its default.
    """
    added = aten.argument(node, 0, "self") if aten.name(node) == "baddbmm" else None
    return added if isinstance(added, fx.Node) else None


def _beside(flow: Flow, node: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
    """Walk from a softmax's input back to its scores; whatever is combined with them on the way is a mask or a bias."""
    found: list[fx.Node] = []
    walk = [node]
    for _ in range(NEAR):
        sources = aten.tensors(node)
        if not sources or aten.name(node) in aten.MATMUL or node in flow.projections or node in flow.mixtures:
            break
        carried = sources[0]
        if len(sources) > 1:
            carried = next((source for source in sources if _reaches_scores(flow, source)), sources[0])
            found += [source for source in sources if source is not carried]
        node = carried
        walk.append(node)
    return found, walk


def _reaches_scores(flow: Flow, node: fx.Node) -> bool:
    """Whether a product of two activations (queries and keys) is upstream, before any projection."""
    queue, seen = [node], set[fx.Node]()
    while queue and len(seen) < NEAR:
        current = queue.pop()
        if current in seen or current in flow.projections or current in flow.mixtures:
            continue
        seen.add(current)
        factors = [source for source in aten.tensors(current) if source is not added_to_product(current)]
        live = [source for source in factors if flow.is_activation(source)]
        if aten.name(current) in aten.MATMUL and len(live) == 2:
            return True
        queue += live
    return False


def raw_inputs(flow: Flow) -> dict[fx.Node, frozenset[str]]:
    """Return, for each node, the inputs that reach it without passing an embedding, a projection or a norm."""
    raw: dict[fx.Node, frozenset[str]] = {}
    for node in flow.order:
        if node.op == "placeholder" and node.name in flow.inputs:
            raw[node] = frozenset({node.name})
        elif node.op == "call_function" and node not in flow.projections:
            if aten.name(node) in aten.NORM or aten.name(node) in aten.CONVOLUTION or _is_lookup(flow, node):
                continue
            reached = [raw[source] for source in aten.tensors(node) if source in raw]
            if reached:
                raw[node] = frozenset[str]().union(*reached)
    return raw


def _is_lookup(flow: Flow, node: fx.Node) -> bool:
    """Whether a node looks up rows of a table of parameters, such as an embedding."""
    if aten.name(node) == "embedding":
        return True
    return aten.name(node) in ("index", "index_select", "gather") and not flow.is_activation(aten.tensors(node)[0])
