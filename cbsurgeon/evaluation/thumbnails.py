"""Small pictures of images that two models put into different classes, inside the result."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace

from cbsurgeon.data import Data, Indexed
from cbsurgeon.data.decoding import Unreadable, decode
from cbsurgeon.evaluation.result import Flip

MOST, EDGE, QUALITY = 24, 96, 70
"""Pictures in one result; their longer edge; their JPEG quality. Together they stay below 100 kB."""


def with_thumbnails(flips: Sequence[Flip], opened: Data) -> tuple[Flip, ...]:
    """The flips, the first of them with a picture where the dataset has images that can be read again."""
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
