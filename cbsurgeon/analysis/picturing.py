"""Pictures of attention over images (Figure 10): choosing the maps, and turning a map into a panel."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cbsurgeon.analysis.feeding import Fed
from cbsurgeon.analysis.result import Picture
from cbsurgeon.analysis.tapping import Tap, Tapped
from cbsurgeon.errors import UsageError
from cbsurgeon.models import Preprocessing
from cbsurgeon.options import AnalyzeOptions

EDGE = 224
"""Longer edge, in pixels, of the images in pictures."""


@dataclass
class Shot:
    """One image and its attention weights.

    Attributes:
        index, name: index and name of the image.
        image: the model's input, ``[channels, height, width]``.
        rows: number of the model → weights of the spatial keys, ``[heads, keys]``.
    """

    index: int
    name: str
    image: Tensor
    rows: dict[int, Tensor] = field(default_factory=dict)


class Picturing:
    """Records the attention weights of some images, in the last attention over the whole image.

    The images are evenly spaced in the dataset, so that a sorted folder shows several classes. If the number of samples
    is unknown, they are the first ones.

    Args:
        how: number of images, and the query whose row of the map is drawn.
        tapped: the models.
        span: number of samples in the dataset; ``None`` if unknown.

    Raises:
        UsageError: the attention has no such query (CB-ANALYZE-06).
    """

    def __init__(self, how: AnalyzeOptions, tapped: Sequence[Tapped], span: int | None) -> None:
        self._least = [number * (span or 0) // how.pictures for number in range(how.pictures)]
        self.taps = [last_with_grid(one.taps) for one in tapped]
        self.queries = [query_of(tap, how.query) if tap is not None else "" for tap in self.taps]
        self.shots: list[Shot] = []
        self._now: list[tuple[int, Shot]] = []

    def begin(self, fed: Fed) -> None:
        """Choose which images of the next batch are recorded."""
        first = fed.views[0]
        image = first if isinstance(first, Tensor) else next(iter(first.values()))
        self._now = []
        if not any(self.taps) or image.dim() != 4:
            return
        taken = spaced(fed.indices, self._least[len(self.shots) :])
        self._now = [(place, Shot(fed.indices[place], fed.names[place], image[place].float().cpu())) for place in taken]
        self.shots += [shot for _, shot in self._now]

    def keeper(self, side: int) -> Callable[[int, Tensor], None]:
        """Return the function that records the weights from the maps of one model."""
        tap = self.taps[side]

        def keep(number: int, weights: Tensor) -> None:
            if tap is None or number != tap.attention.index:
                return
            for place, shot in self._now:
                map_of_image = weights[min(place, len(weights) - 1)]
                shot.rows[side] = row(map_of_image, tap, self.queries[side]).float().cpu()

        return keep

    def chosen(self, shots: Sequence[Shot]) -> list[Shot]:
        """Return the images to draw, of those that all processes recorded."""
        ordered = sorted(shots, key=lambda shot: shot.index)
        return [ordered[place] for place in spaced([shot.index for shot in ordered], self._least)]


def spaced(indices: Sequence[int], least: Sequence[int]) -> list[int]:
    """Return the places of the images to draw: for each bound, the first image with at least that index that is not
    chosen already.

    Args:
        indices: indices of images, ascending.
        least: the bounds, ascending.
    """
    places: list[int] = []
    for place, index in enumerate(indices):
        if len(places) < len(least) and index >= least[len(places)]:
            places.append(place)
    return places


def last_with_grid(taps: Sequence[Tap]) -> Tap | None:
    """Return the last attention over a whole image (not windows); ``None`` if there is none."""
    whole = [tap for tap in taps if tap.attention.grid is not None and len(tap.attention.grid) == 2]
    single = [tap for tap in whole if tap.attention.windows == 1]
    return single[-1] if single else None


def query_of(tap: Tap, wanted: str) -> str:
    """Return which row of the map is drawn: ``class``, ``mean`` or a number.

    Raises:
        UsageError: the attention has no such query (CB-ANALYZE-06).
    """
    one = tap.attention
    has_class = one.kind == "class" or (one.class_token is not None and one.queries == one.keys)
    if wanted == "auto":
        return "class" if has_class else "mean"
    if wanted == "mean" or (wanted == "class" and has_class) or (wanted.isdigit() and int(wanted) < one.queries):
        return wanted
    raise UsageError(
        "the attention has no such query",
        code="CB-ANALYZE-06",
        where=f"--query {wanted}",
        why=f"{one.path} has {one.queries} queries" + ("" if has_class else ", and no class token was found"),
        do="--query mean, or the number of a query, counted from 0",
    )


def row(weights: Tensor, tap: Tap, query: str) -> Tensor:
    """Return the weights of the spatial keys, ``[heads, keys]``, for one query or averaged over all queries."""
    one = tap.attention
    if query == "mean":
        chosen = weights.mean(1)
    else:
        number = (0 if one.kind == "class" else one.class_token or 0) if query == "class" else int(query)
        chosen = weights[:, number]
    return chosen[:, list(one.spatial)]


def panel(weights: Tensor, mass: float) -> Tensor:
    """Return the values, from 0 to 1, that are drawn for a row of weights ``[keys]``.

    As in DINO, the largest weights whose sum is ``mass`` of the row are scaled to the range from 0 to 1; the others are
    0.
    """
    ordered, indices = weights.sort(descending=True)
    before = ordered.cumsum(0) - ordered
    kept = torch.zeros_like(weights, dtype=torch.bool)
    kept[indices] = before < mass * weights.sum()
    low, high = weights.min(), weights.max()
    shown = (weights - low) / (high - low) if high > low else torch.ones_like(weights)
    return torch.where(kept, shown, 0.0)


def pictures_of(
    picturing: Picturing, shots: Sequence[Shot], stated: Sequence[Preprocessing | None], how: AnalyzeOptions
) -> tuple[Picture, ...]:
    """Return the pictures of the recorded images."""
    found = []
    for shot in shots:
        sides = sorted(shot.rows)
        if not sides:
            continue
        tap = picturing.taps[sides[0]]
        assert tap is not None and tap.attention.grid is not None
        grid = (tap.attention.grid[0], tap.attention.grid[1])
        panels = {
            "ab"[side]: tuple(tuple(panel(one, how.mass).tolist()) for one in shot.rows[side])
            for side in sides
            if shot.rows[side].shape[1] == grid[0] * grid[1]
        }
        pixels = address(shot.image, stated[0])
        found.append(
            Picture(shot.name, pixels, tap.attention.path, picturing.queries[sides[0]], grid, panels, how.mass)
        )
    return tuple(found)


def address(image: Tensor, stated: Preprocessing | None) -> str:
    """Convert a model's input back to an image, as a ``data:`` URL; empty if Pillow is not installed.

    Without a preprocessing, the values are scaled to the range from 0 to 1.
    """
    try:
        from PIL import Image
    except ImportError:
        return ""
    if stated is not None:
        mean, std = (torch.tensor(values)[:, None, None] for values in (stated.mean, stated.std))
        image = image * std + mean
    else:
        image = (image - image.min()) / (image.max() - image.min()).clamp_min(1e-12)
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    shown: Any = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels[:, :, :3])
    shown.thumbnail((EDGE, EDGE))
    buffer = io.BytesIO()
    shown.convert("RGB").save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
