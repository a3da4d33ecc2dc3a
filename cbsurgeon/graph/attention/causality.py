"""Would a mean over all tokens leak? Causal attention hides the future, padding masks hide filler."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.scores import NEAR, find_scores, raw_inputs
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.roles import channel_axis, roles
from cbsurgeon.graph.capture.execution import Override, values
from cbsurgeon.graph.program import Program
from cbsurgeon.graph.reader import Found, Reading


def masks(reading: Reading) -> tuple[str, ...]:
    """Names of the inputs that decide, as they are and not through an embedding or projection, what is attended."""
    raw = raw_inputs(reading.flow)
    found: dict[str, None] = {}
    for one in find_scores(reading.flow, reading.flow.order):
        if one.keys:  # a softmax over anything else (a router, a head) hides no token
            for mask in one.masks:
                found.update(dict.fromkeys(sorted(raw.get(mask, frozenset()))))
    return tuple(found)


def causal(program: Program, reading: Reading, *, probe: bool = True) -> tuple[str, ...]:
    """Evidence that attention hides the future; empty when every token may see every other.

    Static evidence is an attention operator told to be causal, or a triangular mask. Where attention takes a mask that
    the graph does not explain, the stream is probed: the last token is changed, and if no earlier token of the last
    block moves (while a change of the first token does move later ones), the attention is causal.

    Args:
        program: the captured program.
        reading: what was read from it.
        probe: run the probe; turned off where weights are not materialised.
    """
    evidence: list[str] = []
    unexplained = False
    for attention in _attention(reading):
        path = reading.calls.path(attention.branch.last.core) or attention.branch.last.core.name
        for node in attention.branch.between.nodes:
            if aten.name(node) == "scaled_dot_product_attention" and aten.argument(node, 5, "is_causal", False):
                evidence.append(f"{node.name} ({path}) is told to be causal")
        for mask in _masks(reading.flow, attention):
            triangle = _triangular(mask)
            if triangle is not None:
                evidence.append(f"{triangle.name} makes a triangular mask for {path}")
            unexplained = True
    if unexplained and probe:
        return tuple(_probe(program, reading))
    return tuple(dict.fromkeys(evidence))[:3]


def _attention(reading: Reading) -> list[Found]:
    return [found for found in reading.found if found.kind == "attention"]


def _masks(flow: Flow, attention: Found) -> list[fx.Node]:
    """Tensors added to, or selecting among, attention scores."""
    return [mask for one in find_scores(flow, attention.branch.between.nodes) for mask in one.masks]


def _triangular(mask: fx.Node) -> fx.Node | None:
    """A node upstream of a mask that makes a triangle: ``tril``, ``triu``, or a comparison of two ranges."""
    queue, seen = [mask], set[fx.Node]()
    while queue and len(seen) < 4 * NEAR:
        node = queue.pop()
        if node in seen:
            continue
        seen.add(node)
        name = aten.name(node)
        if name in ("tril", "triu"):
            return node
        if name in ("le", "ge", "lt", "gt") and sum(_is_range(source) for source in aten.tensors(node)) == 2:
            return node
        queue += aten.tensors(node)
    return None


def _is_range(node: fx.Node) -> bool:
    for _ in range(12):
        if aten.name(node) == "arange":
            return True
        sources = aten.tensors(node)
        if not sources or aten.name(node) not in aten.ELEMENTWISE | aten.LAYOUT | aten.CROP | {"index"}:
            return False
        node = sources[0]
    return False


def _probe(program: Program, reading: Reading) -> list[str]:
    """Change the last token of each stream and look whether any earlier one moves at its last block."""
    by_stream: dict[fx.Node, list[Found]] = {}
    for found in reading.found:
        assert found.branch.stream is not None
        origin = reading.lineage.origin(found.branch.stream)
        first = next((s for s, group in by_stream.items() if group[-1].branch.total is origin), found.branch.stream)
        by_stream.setdefault(first, []).append(found)
    return [
        evidence
        for stream, group in by_stream.items()
        if any(found.kind == "attention" for found in group)
        for evidence in _probe_stream(program, reading.flow, stream, group)
    ]


def _probe_stream(program: Program, flow: Flow, stream: fx.Node, group: Sequence[Found]) -> list[str]:
    channel = channel_axis(flow, stream)
    known = roles(flow, flow.of(stream), {channel}) if channel is not None else None
    last = group[-1].branch.total
    after = roles(flow, flow.of(last), {channel}) if channel is not None else None
    if known is None or after is None or not known.tokens or after.count != known.count:
        return []
    axes = known.tokens

    def positions(tensor: Tensor) -> Tensor:
        return tensor.movedim(after.tokens, tuple(range(len(after.tokens)))).reshape(after.count, -1)

    plain = values(program, program.example, [stream.name, last.name])
    moved = {end: _moved(program, stream, last, plain, axes, positions, end) for end in (0, -1)}
    # The future is hidden if the last token moves nobody else, while the first one does move others.
    if not moved[-1][:-1].any() and moved[0][1:].any():
        return [f"changing the last token at {stream.name} moves no earlier token at {last.name}"]
    return []


def _moved(
    program: Program,
    stream: fx.Node,
    last: fx.Node,
    plain: dict[str, Tensor],
    axes: tuple[int, ...],
    positions: Callable[[Tensor], Tensor],
    end: int,
) -> Tensor:
    """Which tokens of ``last`` change when one end of ``stream`` does."""
    changed = plain[stream.name].clone()
    index = tuple(end if axis in axes else slice(None) for axis in range(changed.dim()))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(changed[index].shape, generator=generator).to(changed.dtype)
    changed[index] += noise * (changed.float().std() + 1e-3).to(changed.dtype)
    override: Override = {stream.name: changed}
    after = values(program, program.example, [last.name], override)[last.name]
    return (positions(after) != positions(plain[last.name])).any(dim=1)
