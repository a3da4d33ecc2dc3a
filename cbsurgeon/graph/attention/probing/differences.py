"""Which tokens of a stretch influence which others by a small change, measured by runs.

Used in place of derivatives where an operator of the stretch has none.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cbsurgeon.graph.attention.probing.order import spread
from cbsurgeon.graph.attention.probing.stretches import Stretch
from cbsurgeon.graph.capture.execution import Execution

MOST = 64
"""Number of tokens that are changed one by one, spread over all; the influence of the others is not measured."""

SHIFT, FURTHER = 1e-3, 0.1
"""Size of a change relative to the standard deviation: of a token whose value may decide its place, so that few ranks
are exchanged, and of a position of another sequence."""

ROUNDINGS = 2
"""A change of the result below this many units of rounding of its largest value counts as none."""


class Differences:
    """The changes of the last exit of a stretch for a small change of one token of its entry.

    Args:
        execution: runs the program.
        example: the inputs of the program.
        override: node name → tensor that replaces its value.
        part: the stretch.
        entry: the value of the entry.

    Attributes:
        places: the numbers of the tokens that are changed, and compared by :meth:`__call__`.
    """

    def __init__(
        self,
        execution: Execution,
        example: Mapping[str, Tensor],
        override: Mapping[str, Tensor],
        part: Stretch,
        entry: Tensor,
    ) -> None:
        self._execution, self._example, self._override = execution, example, override
        self._part, self._entry = part, entry
        self._plain = self._exit(entry)
        kind = torch.finfo(entry.dtype)
        self._floor = ROUNDINGS * kind.eps * float(self._plain.abs().max())
        self._eps = float(kind.eps)
        self.places = torch.tensor(list(dict.fromkeys(spread(part.count, MOST).tolist())))
        self._reached: Tensor | None = None

    def __call__(self, looked: Tensor) -> Tensor:
        """Return which of :attr:`places` influence some of those that are true in ``looked``, and these themselves."""
        if self._reached is None:
            layout = self._part.layouts[self._part.entry]
            rows = layout.rows(self._entry)
            moves = [
                self._moved(layout.tensor(self._shifted(rows, 0, at, SHIFT), self._entry))
                for at in self.places.tolist()
            ]
            self._reached = torch.stack(moves)[:, self.places]
        return looked | self._reached[:, looked].any(dim=1)

    def read(self, axis: int) -> Tensor:
        """Return ``[tokens, positions]``: which positions along an axis of the entry influence each token of the exit;
        at most :data:`MOST` positions, spread over all."""
        places = dict.fromkeys(spread(self._entry.shape[axis], MOST).tolist())
        return torch.stack([self._moved(self._shifted(self._entry, axis, at, FURTHER)) for at in places], dim=1)

    def _shifted(self, tensor: Tensor, axis: int, at: int, by: float) -> Tensor:
        changed = tensor.clone()
        chosen = changed.select(axis, at)
        noise = torch.randn(chosen.shape, generator=torch.Generator().manual_seed(at), dtype=torch.float32)
        chosen += (max(by, 8 * self._eps) * (float(tensor.float().std()) + 1e-3) * noise).to(tensor)
        return changed

    def _moved(self, entry: Tensor) -> Tensor:
        """``[tokens]``, true for the tokens of the exit that another entry changes."""
        return (self._exit(entry) - self._plain).abs().nan_to_num().amax(dim=1) > self._floor

    def _exit(self, entry: Tensor) -> Tensor:
        last = self._part.exits[-1]
        override = {**self._override, self._part.entry.name: entry}
        value = self._execution.values(self._example, [last.name], override)[last.name]
        return self._part.layouts[last].rows(value).double()
