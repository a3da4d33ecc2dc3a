"""Decoding images to Pillow images in a given mode, with size limits and a note for each conversion."""

from __future__ import annotations

import io
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from cbsurgeon.errors import missing
from cbsurgeon.models.files import strict_json

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""Formats that are decoded. Some others start programs (EPS), and rare decoders are more likely to be attacked."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm")
MOST_PIXELS = 1 << 27
"""Largest number of pixels of one image (11,585 x 11,585), so that a file of a few kilobytes cannot allocate
gigabytes."""
MOST_BYTES = 1 << 29
"""Largest size in bytes of one encoded image."""
_ORIENTATION = 0x0112
_WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class Unreadable(Exception):
    """An image that cannot be decoded; the text says why."""


def decode(source: Path | bytes | numpy.ndarray[Any, Any] | Any, mode: str) -> tuple[Image, tuple[str, ...]]:
    """Decode an image to a Pillow mode; return it with notes on the conversions.

    Args:
        source: a file, its bytes, uint8 pixels ``[height, width]`` or ``[height, width, channels]``, a Pillow image, or
            the reason why it cannot be read.
        mode: ``RGB`` or ``L``.

    Returns:
        The image, rotated according to its EXIF orientation, and notes such as ``grey to RGB``.

    Raises:
        Unreadable: it is not an image, is damaged or truncated, or is too large.
        MissingPackage: Pillow is not installed.
    """
    library = _library()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns about is an error or a note here
            return _convert(library, _open(library, source), mode)
    except Unreadable:
        raise
    except Exception as error:
        # Each format's decoder raises errors of its own: OSError, SyntaxError, struct.error, ValueError ...
        raise Unreadable(_reason(error)) from error


def decode_map(source: Path | bytes | numpy.ndarray[Any, Any] | Any) -> numpy.ndarray[Any, Any]:
    """Decode a label map to int64 ``[height, width]``: the indices of a grey or palette image, not its colours.

    Raises:
        Unreadable: it is not a grey or palette image, or is damaged.
        MissingPackage: Pillow is not installed.
    """
    library = _library()
    if isinstance(source, numpy.ndarray):
        return source.astype(numpy.int64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _open(library, source)
            image.load()
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(_reason(error)) from error
    if image.mode not in ("L", "P", "1", *_WIDE):
        raise Unreadable(f"a label map has one channel of class indices; this image is {image.mode}")
    return numpy.asarray(image).astype(numpy.int64)


def _open(library: Any, source: Any) -> Image:
    if isinstance(source, numpy.ndarray):
        return _from_pixels(library, source)
    if isinstance(source, library.Image):
        found: Image = source
        return _limited(found)
    if isinstance(source, Unreadable):
        raise source
    if isinstance(source, Path):
        source = _bytes(source)
    if not source:
        raise Unreadable("the file is empty")
    return _limited(library.open(io.BytesIO(source), formats=FORMATS))


def _bytes(file: Path) -> bytes:
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable("it is not a regular file")
    if found.st_size > MOST_BYTES:
        raise Unreadable(f"the file has {found.st_size} bytes, at most {MOST_BYTES} are read")
    return strict_json.head(file, MOST_BYTES)


def _limited(image: Image) -> Image:
    if image.width * image.height > MOST_PIXELS:
        raise Unreadable(f"it has {image.width} x {image.height} pixels, at most {MOST_PIXELS} are decoded")
    return image


def _from_pixels(library: Any, pixels: numpy.ndarray[Any, Any]) -> Image:
    if pixels.dtype != numpy.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3)):
        raise Unreadable(
            f"pixels are uint8 [height, width] or [height, width, 3]; these are {pixels.dtype} {list(pixels.shape)}"
        )
    flat = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    found: Image = library.fromarray(numpy.ascontiguousarray(flat))
    return found


def _convert(library: Any, image: Image, mode: str) -> tuple[Image, tuple[str, ...]]:
    notes: list[str] = []
    if getattr(image, "n_frames", 1) > 1:
        notes.append("first frame of several")
    deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    image.load()
    if image.getexif().get(_ORIENTATION, 1) != 1:
        from PIL import ImageOps

        image = ImageOps.exif_transpose(image)
        notes.append("rotated by EXIF orientation")
    if image.mode in _WIDE:
        image = _narrow(library, image)
        notes.append("16-bit to 8-bit")
    elif deep:
        notes.append("16-bit to 8-bit")
    if image.mode == "F":
        raise Unreadable("its pixels are floating-point numbers of unknown range")
    if image.mode != mode:
        notes.append(_conversion(image, mode))
        image = image.convert(mode)
    return image, tuple(note for note in notes if note)


def _narrow(library: Any, image: Image) -> Image:
    """Convert 16-bit grey to 8-bit grey by taking the high byte, as Pillow does for 16-bit colour."""
    values = numpy.asarray(image).astype(numpy.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise Unreadable(f"its pixels range from {values.min()} to {values.max()}, which is more than 16 bits")
    found: Image = library.fromarray((values >> 8).astype(numpy.uint8))
    return found


def _conversion(image: Image, mode: str) -> str:
    """Return a note such as ``grey to RGB`` for a conversion."""
    to = "RGB" if mode == "RGB" else "grey"
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return f"alpha dropped, to {to}"
    if image.mode in ("L", "1"):
        return f"grey to {to}"
    if image.mode == "P":
        return f"palette to {to}"
    return f"{image.mode} to {to}"


def _library() -> Any:
    try:
        import PIL.Image
    except ImportError as error:
        raise missing("pillow", "eval", "decoding images") from error
    return PIL.Image


def _reason(error: Exception) -> str:
    """Return an error of Pillow as a reason; its text for an unknown format names an object, not the file."""
    if type(error).__name__ == "UnidentifiedImageError":
        return "it is not an image of a format that Pillow reads"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
