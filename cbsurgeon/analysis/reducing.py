"""From the map of one attention to a few numbers per image, and a histogram."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cbsurgeon.analysis import quantities
from cbsurgeon.analysis.tapping import Tap

RESOLUTION = 1e-3
"""Width in nats of the bins that entropies are counted in; percentiles are exact to this."""

CHUNK = 1 << 22
"""Weights that are reduced at a time, so that intermediate results stay small beside the map."""

SEEN = 1e-6
"""A row of weights that sums to less sees no key at all and says nothing."""

NAMES = ("entropy", "class_entropy", "distance", "weighted_distance", "nuclear_norm")
"""The numbers per image; not-a-number where an attention has none."""


@dataclass(frozen=True)
class Reduced:
    """One attention on some images.

    Attributes:
        values: name of :data:`NAMES` → one number an image, float64 ``[images]``.
        heads: mean entropy of each head, float64 ``[images, heads]``.
        histogram: how many rows have an entropy in each bin of :data:`RESOLUTION`, int64.
    """

    values: Mapping[str, Tensor]
    heads: Tensor
    histogram: Tensor


class Reducer:
    """Reduces the maps of one attention.

    Args:
        tap: the attention.
    """

    def __init__(self, tap: Tap) -> None:
        self.attention, self.scale = tap.attention, tap.scale
        one = self.attention
        self.bins = math.floor(quantities.bound(one.keys) / RESOLUTION) + 1
        self.class_row = 0 if one.kind == "class" else one.class_token if one.queries == one.keys else None
        # Pairs of positions need queries and keys on the same grid.
        paired = one.grid is not None and one.queries == one.keys and len(one.spatial) > 1
        self._between = quantities.grid_distances(one.grid) if paired and one.grid is not None else None

    def __call__(self, weights: Tensor) -> Reduced:
        """The numbers of a map ``[images * windows, heads, queries, keys]``.

        A map that does not depend on the images (learned queries that see each other) counts as one image.
        """
        windows = self.attention.windows
        step = max(1, CHUNK // max(1, weights[0].numel()))
        parts = [self._rows(weights[start : start + step]) for start in range(0, len(weights), step)]
        rows = {name: torch.cat([part[name] for part in parts]).double().cpu() for name in parts[0]}
        rows = {name: row.reshape(-1, windows, *row.shape[1:]) for name, row in rows.items()}
        seen, entropy = rows["seen"], rows["entropy"]
        values = {name: torch.full((len(entropy),), math.nan, dtype=torch.float64) for name in NAMES}
        values["entropy"] = _mean(entropy, seen, (1, 2, 3))
        values["nuclear_norm"] = _mean(rows["nuclear_norm"], seen, (1, 2, 3))
        if self.class_row is not None:
            values["class_entropy"] = entropy[..., self.class_row].mean((1, 2))
        if "far" in rows:
            far, mass = rows["far"], rows["mass"]
            count = far.shape[-1]
            values["distance"] = far.sum(-1).mean((1, 2)) / (count * (count - 1))
            reached = (mass > SEEN).double()
            values["weighted_distance"] = _mean(far / mass.clamp_min(SEEN), reached, (1, 2, 3))
        bins = (rows["entropy"][rows["seen"] > 0] / RESOLUTION).long().clamp(0, self.bins - 1)
        return Reduced(values, _mean(entropy, seen, (1, 3)), torch.bincount(bins, minlength=self.bins))

    def _rows(self, weights: Tensor) -> dict[str, Tensor]:
        """Numbers per row of weights."""
        rows = {
            "entropy": quantities.entropy(weights),
            "nuclear_norm": quantities.nuclear_norm(weights, self.scale),
            "seen": (weights.sum(-1) > SEEN).float(),
        }
        if self._between is not None:
            spatial = self.attention.spatial
            first, last = spatial[0], spatial[-1] + 1  # learned tokens stand at the front or at the end
            between = self._between = self._between.to(weights.device)
            rows["far"], rows["mass"] = quantities.distances(weights[..., first:last, first:last], between)
        return rows


def _mean(values: Tensor, weight: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The mean over some axes of the rows that count."""
    return (values * weight).sum(axes) / weight.sum(axes)


def percentile(histogram: Tensor, share: float) -> float:
    """The entropy below which a share of the counted rows lies, linear inside its bin.

    Args:
        histogram: counts of bins of :data:`RESOLUTION`.
        share: from 0 to 1.
    """
    total = int(histogram.sum())
    if not total:
        return math.nan
    summed = histogram.double().cumsum(0)
    wanted = share * total
    place = int(torch.searchsorted(summed, torch.tensor(wanted, dtype=torch.float64)).clamp(max=len(summed) - 1))
    before = float(summed[place - 1]) if place else 0.0
    inside = (wanted - before) / max(float(histogram[place]), 1.0)
    return (place + min(max(inside, 0.0), 1.0)) * RESOLUTION
