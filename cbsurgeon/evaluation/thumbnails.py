"""Thumbnails of images for which two models predict different classes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace

from cbsurgeon.data import Data, Indexed
from cbsurgeon.data.decoding import Unreadable, decode
from cbsurgeon.evaluation.result import Flip

MOST, EDGE, QUALITY = 24, 96, 70
"""Most thumbnails in one result, their longer edge and their JPEG quality; together they stay below 100 kB."""


def with_thumbnails(flips: Sequence[Flip], opened: Data) -> tuple[Flip, ...]:
    """Return the flips, the first ones with a thumbnail if the dataset's images can be read again."""
    source = opened.source
    if not opened.views or not isinstance(source, Indexed):
        return tuple(flips)
    shown = []
    for flip in flips[:MOST]:
        sample = source.numbered(flip.index)
        try:
            picture, _ = decode(sample.image, "RGB")
        except Unreadable:
            shown.append(flip)
            continue
        picture.thumbnail((EDGE, EDGE))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=QUALITY)
        shown.append(replace(flip, thumbnail=f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"))
    return (*shown, *flips[MOST:])
