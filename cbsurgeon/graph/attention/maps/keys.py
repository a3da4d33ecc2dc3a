"""Find which keys of an attention lie on a grid, and which are learned tokens (class, distillation, register)."""

from __future__ import annotations

import math
from typing import NamedTuple

from cbsurgeon.graph.attention.class_token import ClassTokens, Spot
from cbsurgeon.graph.attention.maps.map import Place
from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.axes.table import Dim
from cbsurgeon.graph.branches.steps import operands

_FAR = 4000


class Keys(NamedTuple):
    """What the key positions of one attention are.

    Attributes:
        learned: positions of learned tokens.
        class_token: position of the class token, if one was proved.
        grid: sizes of the grid of all other positions, if they lie on one.
    """

    learned: tuple[int, ...]
    class_token: int | None
    grid: tuple[int, ...] | None


class KeyReader:
    """Reads the positions of the attentions of one graph.

    Args:
        flow: axis factors of the graph.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._tokens = ClassTokens(flow)
        self._grids: dict[Spot, tuple[int, ...] | None] = {}

    def read(self, place: Place, count: int) -> Keys:
        """Return what the positions along an axis are.

        Args:
            place: the tensor and the axis.
            count: number of positions along the axis.
        """
        learned = self._learned(place, count)
        token = self._tokens.position(*place, count) if self._tokens.read_out else None
        spatial = [position for position in range(count) if position not in learned]
        grid = self._grid(Spot(*place, spatial[0])) if spatial else None
        return Keys(learned, token, grid if grid is not None and math.prod(grid) == len(spatial) else None)

    def _learned(self, place: Place, count: int) -> tuple[int, ...]:
        """The positions of learned tokens, which are at the front or at the end."""
        front, back = 0, count
        while front < count and self._tokens.placed(Spot(*place, front)) is not None:
            front += 1
        while back > front and self._tokens.placed(Spot(*place, back - 1)) is not None:
            back -= 1
        return (*range(front), *range(back, count))

    def _grid(self, spot: Spot) -> tuple[int, ...] | None:
        """The sizes of the grid that a position was part of before other tokens were joined to it."""
        if spot in self._grids:
            return self._grids[spot]
        self._grids[spot] = None
        current: Spot | None = spot
        for _ in range(_FAR):
            if current is None or current.node not in self._flow.table.dims:
                break
            found = self._lattice(self._flow.of(current.node)[current.axis])
            if found is not None:
                self._grids[spot] = found
                break
            terms = [term for term in operands(self._flow, current.node) if self._flow.is_activation(term)]
            if len(terms) > 1:
                grids = (self._grid(current._replace(node=term)) for term in terms)
                self._grids[spot] = next((grid for grid in grids if grid is not None), None)
                break
            current = self._tokens.before(current)
        return self._grids[spot]

    def _lattice(self, dim: Dim) -> tuple[int, ...] | None:
        """The sizes of the axes that were merged into one dimension; ``None`` if it is a single axis."""
        sizes: list[tuple[int, int]] = []
        for factor in dim:  # pieces of one axis keep its identity
            if sizes and sizes[-1][0] == factor.axis:
                sizes[-1] = (factor.axis, sizes[-1][1] * factor.size)
            else:
                sizes.append((factor.axis, factor.size))
        return tuple(size for _, size in sizes) if len(sizes) > 1 else None
