"""Which tokens of a stack influence which others, found by running the part of the program that holds the stack.

Tokens of the tensor that enters the stack are changed, and the tokens that come out are compared. This says what the
stack hides whatever its operators are: a triangular mask, a decay that is multiplied onto the scores, a running sum, a
causal convolution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import Dim, extent
from cbsurgeon.graph.capture.execution import values
from cbsurgeon.graph.program import Program
from cbsurgeon.graph.reading import Reading

CLOSED = 1e-4
"""Influence in one direction below this share of the influence in the other is rounding (of a Fourier transform, or of
a mask that is large but finite). Both directions of attention that hides nothing differ by far less than this."""

REACHED = 1e-6
"""A token moves if it moves by more than this share of the token that was changed; a Fourier transform's rounding is
about 1e-7 of it in float32."""

SMALL = 1e-2
"""Parameters whose largest magnitude is below this are replaced while probing: a branch that starts at zero (ReZero,
adaptive norms, layer scale) would otherwise pass nothing on."""

_FAR = 4000

Order = Literal["future", "past", "open", "unknown"]
"""What a stack hides from its tokens: those behind, those in front, nothing, or it could not be told."""


@dataclass(frozen=True)
class Stretch:
    """The part of a program between two tensors that hold the same tokens.

    Attributes:
        entry, exits: the tensor whose tokens are changed, and those that are compared.
        axes: token axes of each of these tensors.
        count: number of tokens.
    """

    entry: fx.Node
    exits: tuple[fx.Node, ...]
    axes: Mapping[fx.Node, tuple[int, ...]]
    count: int


def stretch(reading: Reading, stream: fx.Node, total: fx.Node, tokens: tuple[Dim, ...], *, far: bool) -> Stretch | None:
    """The stretch around one stack.

    Args:
        reading: what was read from the program.
        stream: the residual stream that its first block reads.
        total: the residual add of its last block.
        tokens: the token dimensions of that stream.
        far: begin where these tokens begin instead of at the stream, which includes token mixers in front of the first
            block. The last tensor that holds the tokens is compared too, which includes those behind the last block.
    """
    flow = reading.flow
    entry = _begin(reading, stream, tokens) if far else stream
    wanted = [total, _last(flow, total, tokens)]
    axes = {node: places for node in (entry, *wanted) if (places := _places(flow, node, tokens)) is not None}
    exits = tuple(dict.fromkeys(node for node in wanted if node in axes and node is not entry))
    if entry not in axes or not exits:
        return None
    count = math.prod(extent(dim) for dim in tokens)
    return Stretch(entry, exits, axes, count) if count > 1 else None


def _begin(reading: Reading, stream: fx.Node, tokens: tuple[Dim, ...]) -> fx.Node:
    """The first tensor upstream that holds the tokens."""
    begin, node = stream, reading.lineage.upstream(stream)
    for _ in range(_FAR):
        if node is None or node not in reading.flow.table.dims:
            break
        if _is_float(node) and _places(reading.flow, node, tokens) is not None:
            begin = node
        node = reading.lineage.upstream(node)
    return begin


def _last(flow: Flow, total: fx.Node, tokens: tuple[Dim, ...]) -> fx.Node:
    """The last tensor that holds the tokens, is as large as the stream, and was computed from it."""
    size = _size(flow, total)
    reached, last = {total}, total
    for node in list(flow.order)[flow.order[total] + 1 :]:
        if node.op != "call_function" or not reached.intersection(node.all_input_nodes):
            continue
        reached.add(node)
        known = node in flow.table.dims and _is_float(node) and _size(flow, node) == size
        if known and _places(flow, node, tokens) is not None:
            last = node
    return last


def _size(flow: Flow, node: fx.Node) -> int:
    return math.prod(flow.table.sizes(node))


def _is_float(node: fx.Node) -> bool:
    val = node.meta.get("val")
    return isinstance(val, Tensor) and val.is_floating_point()


def plain_dims(flow: Flow, dims: Sequence[Dim]) -> tuple[Dim, ...]:
    """Dimensions with every axis under its representative name, so that equal ones compare equal."""
    return tuple(tuple(f._replace(axis=flow.table.root(f.axis)) for f in dim) for dim in dims)


def _places(flow: Flow, node: fx.Node, tokens: tuple[Dim, ...]) -> tuple[int, ...] | None:
    """The axes of a tensor that hold the tokens, each of them once and beside a channel axis."""
    dims = plain_dims(flow, flow.of(node))
    if any(dims.count(dim) != 1 for dim in tokens):
        return None
    places = tuple(dims.index(dim) for dim in tokens)
    rest = [dim for place, dim in enumerate(dims) if place not in places]
    return places if any(dim and not flow.table.holds_batch(dim) for dim in rest) else None


class Probe:
    """Runs stretches of one program with changed tokens.

    Args:
        program: the captured program, with weights.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._parameters = _lively(program)

    def order(self, part: Stretch, *, ends: bool) -> Order:
        """What a stretch hides from its tokens.

        Args:
            part: the stretch.
            ends: look at the last token by itself too, which finds a prefix that all tokens see and blocks of tokens
                that see each other. Not for programs that are given padding: there the last token may be filler.
        """
        run = self._runner(part)
        if run is None:
            return "unknown"
        middle, count = part.count // 2, part.count
        found = self._across(run, middle, count)
        if found in ("future", "past") or not ends:
            return found
        alone = run(count - 1, count)
        for moved in alone:
            reached = torch.nonzero(moved > REACHED * float(moved.max())).flatten()
            cut = int(reached[0]) if len(reached) else 0
            if cut > 0 and self._across(run, cut, count) == "future":
                return "future"
        return found

    def _across(self, run: _Runner, cut: int, count: int) -> Order:
        """The order that one cut between tokens shows, by the first exit that shows any."""
        behind, before = run(cut, count), run(0, cut)
        for back, ahead, floor in zip(behind, before, run.floors, strict=True):
            backward, forward = float(back[:cut].max()), float(ahead[cut:].max())
            if _hidden(backward, forward, floor):
                return "future"
            if _hidden(forward, backward, floor):
                return "past"
            if backward > 0 and forward > 0:
                return "open"
        return "unknown"

    def passes(
        self, part: Stretch, given: Mapping[str, Tensor], changed: tuple[int, int], looked: tuple[int, int]
    ) -> float:
        """How far some tokens move at most when others change.

        Args:
            part: the stretch.
            given: inputs of the program to use instead of the examples.
            changed, looked: first token and the one after the last, of those to change and of those to look at.

        Returns:
            the largest change at any exit, not-a-number where an output is none.
        """
        run = self._runner(part, given)
        return max(float(moved[slice(*looked)].max()) for moved in run(*changed)) if run is not None else float("nan")

    def _runner(self, part: Stretch, given: Mapping[str, Tensor] | None = None) -> _Runner | None:
        names = [node.name for node in (part.entry, *part.exits)]
        override = {**self._parameters, **(given or {})}
        plain = values(self._program, self._program.example, names, override)
        if not all(bool(tensor.isfinite().all()) for tensor in plain.values()):
            return None
        return _Runner(self._program, override, part, plain)


class _Runner:
    """How far every token of every exit moves when some tokens of the entry are changed."""

    def __init__(self, program: Program, override: Mapping[str, Tensor], part: Stretch, plain: dict[str, Tensor]):
        self._program, self._override, self._part, self._plain = program, override, part, plain
        exits = [plain[node.name].double() for node in part.exits]
        eps = [torch.finfo(plain[node.name].dtype).eps for node in part.exits]
        self.floors = [10 * one * float(tensor.abs().max()) for one, tensor in zip(eps, exits, strict=True)]

    def __call__(self, begin: int, end: int) -> list[Tensor]:
        """For every exit, the largest change of each token, ``[tokens]``, when tokens ``begin`` to ``end`` change."""
        part, entry = self._part, self._plain[self._part.entry.name]
        rows = _by_token(entry, part.axes[part.entry])
        generator = torch.Generator().manual_seed(begin + 1)
        noise = torch.randn(rows[begin:end].shape, generator=generator, dtype=torch.float32).to(entry.dtype)
        rows = rows.clone()
        rows[begin:end] += noise * (entry.float().std() + 1e-3).to(entry.dtype)
        changed = _from_tokens(rows, entry, part.axes[part.entry])
        override = {**self._override, part.entry.name: changed}
        names = [node.name for node in part.exits]
        after = values(self._program, self._program.example, names, override)
        return [
            (_by_token(after[node.name], part.axes[node]).double() - self._rows(node)).abs().nan_to_num().amax(dim=1)
            for node in part.exits
        ]

    def _rows(self, node: fx.Node) -> Tensor:
        return _by_token(self._plain[node.name], self._part.axes[node]).double()


def _hidden(less: float, more: float, floor: float) -> bool:
    return more > 0 and (less == 0 or (more > floor and less <= CLOSED * more))


def _by_token(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    """``[tokens, everything else]``."""
    first = tensor.movedim(axes, tuple(range(len(axes))))
    return first.reshape(math.prod(first.shape[: len(axes)]), -1)


def _from_tokens(rows: Tensor, like: Tensor, axes: tuple[int, ...]) -> Tensor:
    target = tuple(range(len(axes)))
    changed = rows.reshape(like.movedim(axes, target).shape).movedim(target, axes)
    return torch.empty_like(like).copy_(changed)  # with the strides of the entry, which a view may rely on


def _lively(program: Program) -> dict[str, Tensor]:
    """Random values for the parameters that are zero or nearly so, by the name of their placeholder."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    for spec in program.exported.graph_signature.input_specs:
        tensor = program.exported.state_dict.get(str(spec.target)) if spec.kind is InputKind.PARAMETER else None
        if tensor is None or not tensor.is_floating_point() or not tensor.numel():
            continue
        if float(tensor.detach().abs().max()) < SMALL:
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32) / 10
            found[str(getattr(spec.arg, "name", ""))] = noise.to(tensor)
    return found
