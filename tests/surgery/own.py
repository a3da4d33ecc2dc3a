"""A user's own operator, as in a third-party package."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cbsurgeon.operators import Operator


class Bent(Operator):
    """Adds a bent copy of every token, scaled by a learned vector; no mean, no slice, nothing our own operators do."""

    name = "bent"

    def __init__(self, channels: int, channel_axis: int, token_axes: Any, *, by: float = 1.0) -> None:
        super().__init__(channels, channel_axis, token_axes)
        self.by = torch.nn.Parameter(torch.full((channels,), float(by)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.per_channel(self.by, x) * x.tanh()


NAME = f"mod:{__name__}:Bent"
