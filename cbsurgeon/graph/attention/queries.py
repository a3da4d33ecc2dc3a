"""Where the queries of an attention are made: which channels of a projection are the queries of each head.

A head whose queries are zero weighs all keys alike, in any implementation. That is proved by running the part of the
program between the projection and the softmax: each head's queries depend on channels of their own, they are zero where
those channels are zero, nothing but this attention reads them, and the scores that remain are the same for every key
that is not hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from cbsurgeon.graph import aten
from cbsurgeon.graph.attention.maps.comparing import softmax_input
from cbsurgeon.graph.attention.maps.finding import find_maps
from cbsurgeon.graph.attention.maps.following import operand
from cbsurgeon.graph.attention.maps.lead import parts_of
from cbsurgeon.graph.attention.maps.listing import HIDDEN
from cbsurgeon.graph.attention.maps.map import Map
from cbsurgeon.graph.attention.scores import NEAR, find_scores
from cbsurgeon.graph.block import Heads, Site
from cbsurgeon.graph.branches.projection import projection
from cbsurgeon.graph.branches.sites import NoSite, site_at
from cbsurgeon.graph.capture.execution import values
from cbsurgeon.graph.program import Program
from cbsurgeon.graph.blocks.reading import Found, Reading

QUERY = "query"
"""The position of this site."""

_ONLY_ASK = ("sym_", "_assert")
"""Operators that read a tensor's form, and none of its values."""

_PASSED_ON = aten.LAYOUT | aten.CROP | aten.SPLIT


def query_sites(program: Program, reading: Reading, found: Sequence[Found], *, run: bool) -> Iterator[Site | str]:
    """For every attention branch, the site at the result of its query projection, or why there is none.

    Args:
        program: the captured program, without inserted operators.
        reading: what was read from it.
        found: its attention branches.
        run: whether the program's parameters hold values.
    """
    maps = find_maps(reading.flow)
    for one in found:
        inside = [each for each in maps if each.node in one.branch.between.nodes]
        try:
            if len(inside) != 1:
                raise NoSite(f"{len(inside) or 'no'} maps of queries by keys are in this branch, not one")
            if not run:
                raise NoSite("the weights hold no values, so that nothing can be proved by running it")
            yield _Proof(program, reading, inside[0]).site()
        except NoSite as reason:
            yield str(reason)


@dataclass(frozen=True)
class _Proof:
    """What is shown of one attention."""

    program: Program
    reading: Reading
    map: Map

    def site(self) -> Site:
        """The site.

        Raises:
            NoSite: something could not be shown.
        """
        flow, asking = self.reading.flow, self.map.asking.node
        if self.map.talking in ("scores", "both"):
            raise NoSite("a projection mixes the scores of its heads before the softmax")
        made, between = self._projection(asking)
        core = projection(flow, made)
        assert core is not None  # the walk stopped at it
        axis = 1 if core.convolution else len(flow.of(made)) - 1
        site = site_at(flow, self.reading.calls, QUERY, made, flow.table.axes(flow.of(core.core)[axis]))
        heads = self._heads(made, axis, between)
        self._refuse_other_readers(made, axis, heads, between)
        return replace(site, heads=heads)

    def _projection(self, asking: fx.Node) -> tuple[fx.Node, set[fx.Node]]:
        """The result of the projection that makes the queries, and the nodes from there to them."""
        flow = self.reading.flow
        if not flow.is_activation(asking):
            raise NoSite("its queries are parameters, made by no projection of tokens")
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
            queue += [source for source in aten.tensors(node) if flow.is_activation(source)]
        if len(made) != 1:
            raise NoSite(f"its queries are made by {len(made)} projections")
        return made[0], seen

    def _heads(self, made: fx.Node, axis: int, between: set[fx.Node]) -> Heads:
        """The channels of every head's queries."""
        plain = all(node is made or aten.name(node) in _PASSED_ON for node in between)
        given = _numbered(made, axis) if plain else _noise(made).requires_grad_()
        asking = self.map.asking.node.name
        query = values(self.program, self.program.example, [asking], {made.name: given}, grad=not plain)[asking]
        query = self._by_head(query)
        owner = _written(query, given.shape[axis]) if plain else _owners(query, given, axis)
        if owner is None:
            raise NoSite("the queries of several heads depend on the same channels")
        heads = tuple(_ranges((owner == head).nonzero().flatten().tolist()) for head in range(len(query)))
        if not all(heads):
            raise NoSite("a head has no channels of its own")
        with torch.no_grad():
            self._refuse_unequal_scores(made, given.masked_fill(_along(owner >= 0, axis, given.dim()), 0.0))
        return heads

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
        split = query.reshape(sizes)
        places = [place for place, role in enumerate(roles) if role == "head"]
        rest = [place for place in range(split.dim()) if place not in places]
        return split.permute(*places, *rest).reshape(-1, *(sizes[place] for place in rest))

    def _refuse_unequal_scores(self, made: fx.Node, silent: Tensor) -> None:
        """Refuse where queries or scores are not what a uniform map needs once the projection's channels are zero."""
        override, asking = {made.name: silent}, self.map.asking.node.name
        query = values(self.program, self.program.example, [asking], override)[asking]
        if bool(query.any()):
            raise NoSite("its queries are not zero where the projection gives zeros: something is added to them")
        read, axis = self._scores()
        if read is None:
            return
        override[self.map.asked.node.name] = _noise(self.map.asked.node)
        scores = values(self.program, self.program.example, [read.name], override)[read.name].float().movedim(axis, -1)
        top = scores.amax(-1, keepdim=True)
        if bool(((scores != top) & (scores > top + HIDDEN)).any()):
            raise NoSite("a bias is added to its scores, so that queries of zero do not weigh all keys alike")

    def _scores(self) -> tuple[fx.Node | None, int]:
        """What is added to scores of zero, with the axis of the keys; ``None`` where nothing is."""
        if not self.map.fused:
            if not find_scores(self.reading.flow, [self.map.node]):
                return None, -1
            read = softmax_input(self.reading.flow, self.map.node)
            return read if read is not None else (None, -1)
        mask = aten.argument(self.map.node, 3, "attn_mask")
        hides = isinstance(mask, fx.Node) and (value := aten.value(mask)) is not None and value.dtype != torch.bool
        return (mask if hides else None), -1  # type: ignore[return-value]

    def _refuse_other_readers(self, made: fx.Node, axis: int, heads: Heads, between: set[fx.Node]) -> None:
        """Refuse where anything but this attention's scores reads the queries."""
        carriers = {*between, made}
        queue = [made]
        while queue:
            for user in queue.pop().users:
                if user not in carriers and aten.name(user) in _PASSED_ON and len(aten.tensors(user)) == 1:
                    carriers.add(user)
                    queue.append(user)
        before = _numbered(made, axis)
        chosen = torch.zeros(before.shape[axis], dtype=torch.bool)
        for head in heads:
            for start, stop in head:
                chosen[start:stop] = True
        after = before.masked_fill(_along(chosen, axis, before.dim()), 0.0)
        names = [node.name for node in carriers]
        one, other = (values(self.program, self.program.example, names, {made.name: x}) for x in (before, after))
        upstream = _upstream(self.map.node, made)
        for node in carriers:
            if not _differ(one[node.name], other[node.name]):
                continue
            for user in node.users:
                if user in carriers or user in upstream or aten.name(user).startswith(_ONLY_ASK):
                    continue
                raise NoSite(f"its queries are also read by {user.name}")


def _noise(node: fx.Node) -> Tensor:
    """Random values of a node's shape at capture, none of them zero.

    Raises:
        NoSite: the shape depends on values.
    """
    value = aten.value(node)
    assert value is not None
    sizes, strides = ([_at_capture(number) for number in numbers] for numbers in (value.shape, value.stride()))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(sizes, generator=generator) + 0.5
    result: Tensor = torch.empty_strided(sizes, strides, dtype=value.dtype)
    return result.copy_(drawn)


def _numbered(node: fx.Node, axis: int) -> Tensor:
    """A tensor of a node's shape at capture that holds the number of its channel everywhere, counted from one."""
    like = _noise(node)
    numbers = torch.arange(1, like.shape[axis] + 1)
    return torch.empty_like(like, dtype=torch.float32).copy_(_along(numbers, axis, like.dim()).expand_as(like))


def _written(query: Tensor, channels: int) -> Tensor | None:
    """``[channels]``: the head in whose queries the number of a channel is written, as :func:`_owners` gives it."""
    owner = torch.full((channels,), -1)
    for head, own in enumerate(query):
        places = own.unique().long() - 1
        if bool((owner[places] >= 0).any()):
            return None
        owner[places] = head
    return owner


def _at_capture(number: int | torch.SymInt) -> int:
    if isinstance(number, int):
        return number
    if number.node.hint is None:
        raise NoSite("the shape of its queries depends on values")
    return int(number.node.hint)


def _owners(query: Tensor, given: Tensor, axis: int) -> Tensor | None:
    """``[channels]``: the head whose queries depend on a channel, -1 for none; ``None`` where several do.

    The heads are numbered in binary: one gradient for every digit that is one, and one for every digit that is zero.
    """
    count = len(query)
    number = torch.arange(count).view(-1, *[1] * (query.dim() - 1))

    def reached(chosen: Tensor) -> Tensor:
        weights = chosen.to(query.dtype).expand_as(query)
        (slope,) = torch.autograd.grad(query, given, weights, retain_graph=True)
        return slope.movedim(axis, 0).flatten(1).ne(0).any(1)

    anywhere = reached(torch.ones_like(number))
    owner = torch.zeros(given.shape[axis], dtype=torch.long)
    for digit in range((count - 1).bit_length()):
        ones, zeros = reached(number >> digit & 1), reached(1 - (number >> digit & 1))
        if bool((ones & zeros).any()):
            return None
        owner += ones.long() << digit
    return owner.masked_fill(~anywhere, -1)


def _ranges(places: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Sorted numbers as ``(start, stop)`` of every run."""
    runs: list[tuple[int, int]] = []
    for place in places:
        if runs and runs[-1][1] == place:
            runs[-1] = (runs[-1][0], place + 1)
        else:
            runs.append((place, place + 1))
    return tuple(runs)


def _along(vector: Tensor, axis: int, rank: int) -> Tensor:
    return vector.view(*[-1 if place == axis else 1 for place in range(rank)])


def _upstream(node: fx.Node, stop: fx.Node) -> set[fx.Node]:
    """A node and everything it is computed from, as far as another node."""
    queue, seen = [node], set[fx.Node]()
    while queue:
        current = queue.pop()
        if current not in seen and current is not stop:
            seen.add(current)
            queue += current.all_input_nodes
    return seen


def _differ(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return not torch.equal(one, other)
    if isinstance(one, Mapping) or not isinstance(one, tuple | list):
        return bool(one != other)
    return any(_differ(mine, its) for mine, its in zip(one, other, strict=True))
