"""Statistics of the learned scales of CB_S over depth (Figure 8)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cbsurgeon.graph import Program
from cbsurgeon.graph.occupants import occupants
from cbsurgeon.models import Model
from cbsurgeon.operators import CBS

LOW, HIGH = 0.1, 0.9
"""The quantiles of the magnitudes whose ratio is computed."""


@dataclass(frozen=True)
class Scale:
    """Statistics of the scales of one CB_S operator.

    Attributes:
        path: module path of the operator.
        channels: number of scales.
        ratio: 0.1 quantile divided by 0.9 quantile of the magnitudes, from 0 to 1; ``None`` if the scales are 0.
        mean, mean_abs: mean of the scales and of their magnitudes.
    """

    path: str
    channels: int
    ratio: float | None
    mean: float
    mean_abs: float

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "path": self.path,
            "channels": self.channels,
            "ratio": self.ratio,
            "mean": self.mean,
            "mean_abs": self.mean_abs,
        }


def scales_of(model: Model, program: Program) -> tuple[Scale, ...]:
    """Return the statistics of every CB_S operator of a model, in graph order.

    Args:
        model: the model.
        program: its captured program, which gives the order.
    """
    found = dict(_of_program(program))
    if model.module is not None:
        own = {path: part.scale for path, part in model.module.named_modules() if isinstance(part, CBS)}
        found |= {path: scale for path, scale in own.items() if path not in found}
    return tuple(summarized(path, scale) for path, scale in found.items())


def _of_program(program: Program) -> Iterator[tuple[str, Tensor]]:
    state = program.exported.state_dict
    for one in occupants(program.exported):
        if one.op == CBS.name and f"{one.path}.scale" in state:
            yield one.path, state[f"{one.path}.scale"]


def summarized(path: str, scale: Tensor) -> Scale:
    """Compute the statistics of one vector of scales."""
    values = scale.detach().double().flatten().cpu()
    magnitudes = values.abs()
    low, high = magnitudes.quantile(torch.tensor([LOW, HIGH], dtype=torch.float64)).tolist()
    return Scale(path, len(values), low / high if high > 0 else None, float(values.mean()), float(magnitudes.mean()))
