"""Find the site ``query``: the result of the projection that makes the queries of an attention, and each head's
channels.

A head whose queries are zero gives all keys the same weight, in any implementation. This is proved by running the part
of the program between the projection and the softmax:

- the queries of a head depend on channels that no other head uses, and only this attention reads them;
- the queries are zero if these channels are zero;
- the remaining scores are then the same for every key that is not masked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.channels import along, differ, holds, noise, numbered, owners, runs_of, written
from cbsurgeon.graph.attention.maps.comparing import softmax_input
from cbsurgeon.graph.attention.maps.finding import find_maps
from cbsurgeon.graph.attention.maps.following import operand
from cbsurgeon.graph.attention.maps.lead import parts_of
from cbsurgeon.graph.attention.maps.listing import HIDDEN
from cbsurgeon.graph.attention.maps.map import Map
from cbsurgeon.graph.attention.scores import NEAR, find_scores
from cbsurgeon.graph.block import Heads, Site
from cbsurgeon.graph.blocks.reading import Found, Reading
from cbsurgeon.graph.branches.projection import projection
from cbsurgeon.graph.branches.sites import NoSite, site_at
from cbsurgeon.graph.capture.execution import Execution
from cbsurgeon.graph.program import Program

QUERY: Final = "query"
"""The position of this site."""

_ONLY_ASK = ("sym_", "_assert")
"""Operators that read a tensor's shape and type, and none of its values."""

_CASTS = frozenset("to _to_copy type_as float half bfloat16 double".split())

_PASSED_ON = aten.LAYOUT | aten.CROP | aten.SPLIT


def query_sites(program: Program, reading: Reading, found: Sequence[Found], *, run: bool) -> Iterator[Site | str]:
    """Yield, for every attention branch, the site at the result of its query projection, or the reason for none.

    Args:
        program: the captured program, without inserted operators.
        reading: what was read from it.
        found: its attention branches.
        run: whether the program's parameters hold values.
    """
    maps = find_maps(reading.flow)
    execution = Execution(program)
    for one in found:
        inside = [each for each in maps if each.node in one.branch.between.nodes]
        try:
            if len(inside) != 1:
                raise NoSite(f"this branch has {len(inside) or 'no'} maps of queries by keys instead of one")
            yield _Proof(program, execution, reading, inside[0], run).site()
        except NoSite as reason:
            yield str(reason)


@dataclass(frozen=True)
class _Proof:
    """The proof for one attention."""

    program: Program
    execution: Execution
    reading: Reading
    map: Map
    run: bool

    def site(self) -> Site:
        """Return the site.

        Raises:
            NoSite: something could not be proved.
        """
        flow, asking = self.reading.flow, self.map.asking.node
        if self.map.talking in ("scores", "both"):
            raise NoSite("a projection mixes the scores of its heads before the softmax")
        made, between = self._projection(asking)
        core = projection(flow, made)
        assert core is not None  # _projection() only returns projections
        axis = 1 if core.convolution else len(flow.of(made)) - 1
        site = site_at(flow, self.reading.calls, QUERY, made, flow.table.axes(flow.of(core.core)[axis]))
        strangers = self._other_readers(made, between)
        plain = all(node is made or aten.name(node) in _PASSED_ON - _CASTS for node in between)
        if not (plain or self.run):
            raise NoSite("the weights hold no values, so that nothing can be proved by running it")
        heads, holding = (self._by_numbers if plain else self._by_gradients)(made, axis, list(strangers))
        self._refuse_unequal_scores(made)
        for node in holding:
            raise NoSite(f"its queries are also read by {strangers[node].name}")
        return replace(site, heads=heads)

    def _projection(self, asking: fx.Node) -> tuple[fx.Node, set[fx.Node]]:
        """The result of the projection that makes the queries, and the nodes between the projection and the queries."""
        flow = self.reading.flow
        if not flow.is_activation(asking):
            raise NoSite("its queries are parameters, not a projection of tokens")
        queue, seen, made = [asking], set[fx.Node](), list[fx.Node]()
        while queue:
            node = queue.pop()
            if node in seen:
                continue
            seen.add(node)
            if len(seen) > NEAR or node.op == "placeholder":
                raise NoSite("its queries are not made by one projection")
            if projection(flow, node) is not None:
                made.append(node)
                continue
            sources = aten.tensors(node)[:1] if aten.name(node).endswith("_as") else aten.tensors(node)
            queue += [source for source in sources if flow.is_activation(source)]
        if len(made) != 1:
            raise NoSite(f"its queries are made by {len(made)} projections")
        return made[0], seen

    def _by_numbers(self, made: fx.Node, axis: int, asked: list[fx.Node]) -> tuple[Heads, list[fx.Node]]:
        """The channels of each head's queries, and the nodes that hold them, if only layout steps are in between."""
        asking, given = self.map.asking.node, numbered(made, axis)
        found = self._values({made: given}, [*asked, asking])
        query = self._by_head(found[asking.name])
        owner = written(query, given.shape[axis])
        return runs_of(owner, len(query)), [node for node in asked if holds(found[node.name], owner)]

    def _by_gradients(self, made: fx.Node, axis: int, asked: list[fx.Node]) -> tuple[Heads, list[fx.Node]]:
        """The channels that each head's queries depend on, and which nodes change with them.

        Raises:
            NoSite: queries of zero channels are not zero.
        """
        given, asking = noise(made).requires_grad_(), self.map.asking.node
        query = self._by_head(self._values({made: given}, [asking], grad=True)[asking.name])
        if not query.requires_grad:
            raise NoSite("its queries do not depend on the values of the projection")
        owner = owners(query, given, axis)
        plain = given.detach()
        silent = plain.masked_fill(along(owner >= 0, axis, plain.dim()), 0.0)
        before, after = (self._values({made: x}, [*asked, asking]) for x in (plain, silent))
        if bool(after[asking.name].any()):
            raise NoSite("its queries are not zero where the projection gives zeros: something is added to them")
        changed = [node for node in asked if differ(before[node.name], after[node.name])]
        return runs_of(owner, len(query)), changed

    def _values(self, given: Mapping[fx.Node, Tensor], wanted: Iterable[fx.Node], *, grad: bool = False) -> Any:
        override = {node.name: tensor for node, tensor in given.items()}
        try:
            names = [node.name for node in wanted]
            return self.execution.values(self.program.example, names, override, grad=grad)
        except RuntimeError as error:
            raise NoSite(f"the part that makes its queries cannot be run by itself: {error}") from error

    def _by_head(self, query: Tensor) -> Tensor:
        """The queries, ``[heads, ...]``."""
        flow, one = self.reading.flow, self.map
        node = one.asking.node
        part = operand(flow, one.scores, node) if one.scores is not None else None
        contracted = set(part.contracted) if part is not None else {query.dim() - 1}
        own = {*contracted, one.asking.axis}
        sizes: list[int] = []
        roles: list[str] = []
        for place, dim in enumerate(flow.of(node)):
            parts = parts_of(flow, one, [dim])[0] if place not in own else ()
            if not parts:
                sizes, roles = [*sizes, query.shape[place]], [*roles, ""]
                continue
            known = 1
            for each in parts:
                known *= each.size or 1
            sizes += [each.size or query.shape[place] // known for each in parts]
            roles += [each.role for each in parts]
        if math.prod(sizes) != query.numel():
            raise NoSite("the axes of its queries cannot be divided into heads and samples")
        split = query.reshape(sizes)
        places = [place for place, role in enumerate(roles) if role == "head"]
        rest = [place for place in range(split.dim()) if place not in places]
        return split.permute(*places, *rest).reshape(-1, *(sizes[place] for place in rest))

    def _refuse_unequal_scores(self, made: fx.Node) -> None:
        """Refuse an attention with a bias on its scores that is not a mask, because such a bias gives keys different
        weights."""
        read, axis = self._scores()
        if read is None:
            return
        if not self.run:
            raise NoSite("the weights hold no values, so the bias on the scores is unknown")
        asking, asked = self.map.asking.node, self.map.asked.node
        given = {made: torch.zeros_like(noise(made)), asking: torch.zeros_like(noise(asking)), asked: noise(asked)}
        scores = self._values(given, [read])[read.name].float().movedim(axis, -1)
        top = scores.amax(-1, keepdim=True)
        if bool(((scores != top) & (scores > top + HIDDEN)).any()):
            raise NoSite("a bias is added to its scores, so that queries of zero do not give all keys the same weight")

    def _scores(self) -> tuple[fx.Node | None, int]:
        """The node of the scores with mask and bias, and the axis of the keys; ``None`` if nothing is added."""
        if not self.map.fused:
            if not find_scores(self.reading.flow, [self.map.node]):
                return None, -1
            read = softmax_input(self.reading.flow, self.map.node)
            return read if read is not None else (None, -1)
        mask = aten.argument(self.map.node, 3, "attn_mask")
        hides = isinstance(mask, fx.Node) and (value := aten.value(mask)) is not None and value.dtype != torch.bool
        return (mask if hides else None), -1  # type: ignore[return-value]

    def _other_readers(self, made: fx.Node, between: set[fx.Node]) -> dict[fx.Node, fx.Node]:
        """Return, for each node that may hold queries, a reader that is not upstream of this attention's scores.

        Nodes that may hold queries are those between the projection and the queries, and those that only rearrange the
        projection's result.
        """
        upstream = _upstream(self.map.node, made)
        carriers, queue, strangers = {*between, made}, [made, *between], dict[fx.Node, fx.Node]()
        while queue:
            node = queue.pop()
            for user in node.users:
                if user in carriers or user in upstream or aten.name(user).startswith(_ONLY_ASK):
                    continue
                if aten.name(user) in _PASSED_ON and len(aten.tensors(user)) == 1:
                    carriers.add(user)
                    queue.append(user)
                else:
                    strangers[node] = user
        return strangers


def _upstream(node: fx.Node, stop: fx.Node) -> set[fx.Node]:
    """A node and everything that it is computed from, back to another node."""
    queue, seen = [node], set[fx.Node]()
    while queue:
        current = queue.pop()
        if current not in seen and current is not stop:
            seen.add(current)
            queue += current.all_input_nodes
    return seen
