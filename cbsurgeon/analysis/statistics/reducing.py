"""Reducing the map of one attention to a few numbers per image and a histogram."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cbsurgeon.analysis.statistics import quantities
from cbsurgeon.analysis.tapping import Tap

RESOLUTION = 1e-3
"""Width in nats of the bins of the entropy histogram: the accuracy of percentiles."""

CHUNK = 1 << 22
"""Number of weights reduced at a time, so that intermediate results are small compared with the map."""

SEEN = 1e-6
"""A row of weights with a smaller sum is fully masked and is left out."""

NAMES = ("entropy", "class_entropy", "distance", "weighted_distance", "nuclear_norm")
"""The quantities per image; NaN if one is not defined for an attention."""


@dataclass(frozen=True)
class Reduced:
    """The statistics of one attention on some images.

    Attributes:
        values: name in :data:`NAMES` → one number per image, float64 ``[images]``.
        heads: mean entropy of each head, float64 ``[images, heads]``.
        histogram: number of rows with an entropy in each bin of width :data:`RESOLUTION`, int64.
    """

    values: Mapping[str, Tensor]
    heads: Tensor
    histogram: Tensor


class Reducer:
    """Reduces the maps of one attention to statistics.

    Args:
        tap: the attention.
    """

    def __init__(self, tap: Tap) -> None:
        self.attention, self.scale = tap.attention, tap.scale
        one = self.attention
        self.bins = math.floor(quantities.bound(one.keys) / RESOLUTION) + 1
        self.class_row = 0 if one.kind == "class" else one.class_token if one.queries == one.keys else None
        # Distances are defined only if queries and keys are on the same grid.
        paired = one.grid is not None and one.queries == one.keys and len(one.spatial) > 1
        self._between = quantities.grid_distances(one.grid) if paired and one.grid is not None else None

    def __call__(self, weights: Tensor) -> Reduced:
        """Return the statistics of a map ``[images * windows, heads, queries, keys]``.

        A map that does not depend on the images (attention among learned queries) counts as one image.
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
        """Return the quantities per row of weights."""
        rows = {
            "entropy": quantities.entropy(weights),
            "nuclear_norm": quantities.nuclear_norm(weights, self.scale),
            "seen": (weights.sum(-1) > SEEN).float(),
        }
        if self._between is not None:
            spatial = self.attention.spatial
            first, last = spatial[0], spatial[-1] + 1  # learned tokens are at the front or at the end
            between = self._between = self._between.to(weights.device)
            rows["far"], rows["mass"] = quantities.distances(weights[..., first:last, first:last], between)
        return rows


def _mean(values: Tensor, weight: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the weighted mean over some axes."""
    return (values * weight).sum(axes) / weight.sum(axes)


def percentile(histogram: Tensor, share: float, most: float) -> float:
    """Return the entropy below which a fraction of the rows lies, interpolated linearly inside its bin.

    Args:
        histogram: counts per bin of width :data:`RESOLUTION`.
        share: the fraction, from 0 to 1.
        most: upper bound of the entropy, at which the last bin ends.
    """
    total = int(histogram.sum())
    if not total:
        return math.nan
    summed = histogram.double().cumsum(0)
    wanted = share * total
    bin_ = int(torch.searchsorted(summed, torch.tensor(wanted, dtype=torch.float64)).clamp(max=len(summed) - 1))
    before = float(summed[bin_ - 1]) if bin_ else 0.0
    inside = (wanted - before) / max(float(histogram[bin_]), 1.0)
    return min((bin_ + min(max(inside, 0.0), 1.0)) * RESOLUTION, most)
