"""Attention over images (Figure 10): which maps are kept, and what becomes of one for a panel."""

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
"""Longer edge in pixels of the images that are kept for a picture."""


@dataclass
class Shot:
    """One image and its attention rows.

    Attributes:
        index, name: which image.
        image: the model's input, ``[channels, height, width]``.
        rows: side → weights of the spatial keys, ``[heads, keys]``.
    """

    index: int
    name: str
    image: Tensor
    rows: dict[int, Tensor] = field(default_factory=dict)


class Picturing:
    """Keeps the rows of one attention for the first images.

    Args:
        how: number of images, and whose row.
        tapped: the models.

    Raises:
        UsageError: a query that is none (CB-ANALYZE-06).
    """

    def __init__(self, how: AnalyzeOptions, tapped: Sequence[Tapped]) -> None:
        self._most = how.pictures
        self.taps = [last_with_grid(one.taps) for one in tapped]
        self.queries = [query_of(tap, how.query) if tap is not None else "" for tap in self.taps]
        self.shots: list[Shot] = []
        self._now: list[Shot] = []

    def begin(self, fed: Fed) -> None:
        """A batch comes: decide which of its images are kept."""
        first = fed.views[0]
        image = first if isinstance(first, Tensor) else next(iter(first.values()))
        wanted = self._most - len(self.shots) if any(self.taps) and image.dim() == 4 else 0
        self._now = [
            Shot(index, name, image[place].float().cpu())
            for place, (index, name) in enumerate(zip(fed.indices, fed.names, strict=True))
            if place < wanted
        ]
        self.shots += self._now

    def keeper(self, side: int) -> Callable[[int, Tensor], None]:
        """What takes the rows out of the maps of one model."""
        tap = self.taps[side]

        def keep(number: int, weights: Tensor) -> None:
            if tap is None or number != tap.attention.index:
                return
            for place, shot in enumerate(self._now):
                map_of_image = weights[min(place, len(weights) - 1)]
                shot.rows[side] = row(map_of_image, tap, self.queries[side]).float().cpu()

        return keep


def last_with_grid(taps: Sequence[Tap]) -> Tap | None:
    """The last attention over a whole image: the one before the head."""
    whole = [tap for tap in taps if tap.attention.grid is not None and len(tap.attention.grid) == 2]
    single = [tap for tap in whole if tap.attention.windows == 1]
    return single[-1] if single else None


def query_of(tap: Tap, wanted: str) -> str:
    """Whose row is drawn: ``class``, ``mean`` or a number.

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
        why=f"{one.path} has {one.queries} queries" + ("" if has_class else ", and no class token was proved"),
        do="--query mean, or a number from 0 on",
    )


def row(weights: Tensor, tap: Tap, query: str) -> Tensor:
    """The weights of the spatial keys, ``[heads, keys]``, in one query's row or the mean of all."""
    one = tap.attention
    if query == "mean":
        chosen = weights.mean(1)
    else:
        place = (0 if one.kind == "class" else one.class_token or 0) if query == "class" else int(query)
        chosen = weights[:, place]
    return chosen[:, list(one.spatial)]


def panel(weights: Tensor, mass: float) -> Tensor:
    """What is drawn of a row of weights ``[keys]``, from 0 to 1.

    The largest weights that together hold ``mass`` of the row are kept and stretched to the range from 0 to 1, as DINO
    draws them; the others are 0.
    """
    ordered, places = weights.sort(descending=True)
    before = ordered.cumsum(0) - ordered
    kept = torch.zeros_like(weights, dtype=torch.bool)
    kept[places] = before < mass * weights.sum()
    low, high = weights.min(), weights.max()
    shown = (weights - low) / (high - low) if high > low else torch.ones_like(weights)
    return torch.where(kept, shown, 0.0)


def pictures_of(
    picturing: Picturing, shots: Sequence[Shot], stated: Sequence[Preprocessing | None], how: AnalyzeOptions
) -> tuple[Picture, ...]:
    """The pictures of the images that were kept."""
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
    """A model's input as a picture again, as a ``data:`` address; empty where Pillow is not installed.

    Without a preprocessing the values are stretched from 0 to 1.
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
