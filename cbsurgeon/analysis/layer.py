"""The statistics of one attention over all images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cbsurgeon.graph.heads import Attention

TITLES = {
    "entropy": "entropy",
    "class_entropy": "entropy of the class token's row",
    "distance": "relative distance, mean over pairs",
    "weighted_distance": "relative distance, weighted by attention",
    "nuclear_norm": "nuclear norm of the softmax Jacobian",
}
"""Quantity → its name in sentences."""

UNITS = {"entropy": "nats", "class_entropy": "nats"}


@dataclass(frozen=True)
class Entropy:
    """Entropies of the rows of one attention, in nats (Figure 4).

    Attributes:
        mean: over images, heads and queries.
        p15, p85: 15th and 85th percentile over all rows. The paper's text names the 15th, but its description "close to
            the maximal" fits the 85th.
        bound: the largest possible entropy, ``ln keys``.
        by_head: mean per head.
    """

    mean: float
    p15: float
    p85: float
    bound: float
    by_head: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "mean": plain(self.mean),
            "p15": plain(self.p15),
            "p85": plain(self.p85),
            "bound": self.bound,
            "by_head": [plain(one) for one in self.by_head],
        }


@dataclass(frozen=True)
class Layer:
    """The statistics of one attention over all images. A quantity that is not defined for it is ``None``.

    Attributes:
        attention: its description from ``inspect``.
        entropy: entropy of its rows.
        class_entropy: mean entropy of the class token's row, in nats (Figure 7a).
        distance: weight times distance, averaged over all pairs of different spatial tokens (Figure 7b taken
            literally); of the order of 1 / N.
        weighted_distance: mean distance to the other spatial tokens, weighted by attention (Figure 7b as usually read).
        nuclear_norm: nuclear norm of the Jacobian of softmax, ``scale * (1 - sum of squared weights)`` (Figure 5).
        scale: factor between the product of queries and keys and the logits.
        scale_read: whether the factor was read from the graph; otherwise ``1 / sqrt(channels of a head)`` is assumed.
        images: quantity → its value per image, in the order of the images.
    """

    attention: Attention
    entropy: Entropy
    class_entropy: float | None
    distance: float | None
    weighted_distance: float | None
    nuclear_norm: float | None
    scale: float
    scale_read: bool
    images: Mapping[str, tuple[float, ...]] = field(default_factory=dict, repr=False)

    def spread(self, quantity: str) -> tuple[float, float]:
        """Return the 15th and the 85th percentile of a quantity over the images."""
        values = sorted(value for value in self.images[quantity] if math.isfinite(value))
        if not values:
            return math.nan, math.nan
        ends = (0.15 * (len(values) - 1), 0.85 * (len(values) - 1))
        low, high = (
            values[int(end)] + (end - int(end)) * (values[min(int(end) + 1, len(values) - 1)] - values[int(end)])
            for end in ends
        )
        return low, high

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        one = self.attention
        return {
            "index": one.index,
            "stack": one.stack,
            "path": one.path,
            "kind": one.kind,
            "heads": one.heads,
            "queries": one.queries,
            "keys": one.keys,
            "entropy": self.entropy.to_dict(),
            "class_entropy": self.class_entropy,
            "distance": self.distance,
            "weighted_distance": self.weighted_distance,
            "nuclear_norm": self.nuclear_norm,
            "scale": self.scale,
            "scale_read": self.scale_read,
            "mixed": one.mixed,
            "spread": {name: [plain(end) for end in self.spread(name)] for name in self.images},
        }


def plain(value: float) -> float | None:
    """Return a number for JSON; ``None`` for infinity and not-a-number."""
    return value if math.isfinite(value) else None
