"""Run a stretch of a program with changed tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from cbsurgeon.graph.attention.probing.stretches import Stretch
from cbsurgeon.graph.capture.execution import Execution

UNCOMMON = 104_729
"""Seed of the noise. With a seed that an example was made with, noise may be a multiple of the token that it is added
to, and a norm removes it."""


class Runner:
    """Runs a stretch with changed tokens and measures how much every token of every exit changes."""

    def __init__(
        self,
        execution: Execution,
        example: Mapping[str, Tensor],
        override: Mapping[str, Tensor],
        part: Stretch,
        plain: dict[str, Tensor],
    ) -> None:
        self._execution, self._example, self._override = execution, example, override
        self._part, self._plain = part, plain
        exits = [plain[node.name].double() for node in part.exits]
        eps = [torch.finfo(plain[node.name].dtype).eps for node in part.exits]
        self._moved: dict[bytes, list[Tensor]] = {}
        self.floors = [10 * one * float(tensor.abs().max()) for one, tensor in zip(eps, exits, strict=True)]

    def __call__(self, changed: Tensor) -> list[Tensor]:
        """Return, for every exit, the largest change of each token, ``[tokens]``, when the given tokens are changed.

        The stretch is run once for the same tokens.
        """
        key = changed.numpy().tobytes()
        if key not in self._moved:
            self._moved[key] = self._run(changed)
        return self._moved[key]

    def _run(self, changed: Tensor) -> list[Tensor]:
        part, entry = self._part, self._plain[self._part.entry.name]
        rows = part.layouts[part.entry].rows(entry).clone()
        generator = torch.Generator().manual_seed(int(changed.nonzero()[0]) + UNCOMMON)
        noise = torch.randn(rows[changed].shape, generator=generator, dtype=torch.float32).to(entry.dtype)
        rows[changed] += noise * (entry.float().std() + 1e-3).to(entry.dtype)
        override = {**self._override, part.entry.name: part.layouts[part.entry].tensor(rows, entry)}
        names = [node.name for node in part.exits]
        after = self._execution.values(self._example, names, override)
        return [
            (part.layouts[node].rows(after[node.name]).double() - self._rows(node)).abs().nan_to_num().amax(dim=1)
            for node in part.exits
        ]

    def _rows(self, node: fx.Node) -> Tensor:
        return self._part.layouts[node].rows(self._plain[node.name]).double()
