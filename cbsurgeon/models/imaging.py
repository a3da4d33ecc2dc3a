"""Apply a :class:`~cbsurgeon.models.preprocessing.Preprocessing`: from a decoded image to a model's input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import Tensor

from cbsurgeon.errors import missing
from cbsurgeon.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

OUTSIDE = 255
"""The label of pixels that belong to no class, as in ADE20K and Cityscapes."""
MODES = {"rgb": "RGB", "bgr": "RGB", "grey": "L"}
"""Channel order → the Pillow mode that :func:`framed` takes."""


def to_input(image: Image, preprocessing: Preprocessing) -> Tensor:
    """Return one image as a float32 input ``[channels, height, width]``.

    Args:
        image: an image in the mode of :data:`MODES`.
        preprocessing: how to resize, crop and normalise it.

    Raises:
        MissingPackage: torchvision is not installed.
    """
    return normalized(framed(image, preprocessing)[None], preprocessing)[0]


def framed(image: Image, preprocessing: Preprocessing) -> Tensor:
    """Return the resized and cropped image, uint8 ``[channels, height, width]``, with channels in the model's order."""
    functional, modes = _library()
    picture: Any = image if preprocessing.resampler == "pil" else _tensor(image)
    width, height = image.size
    if preprocessing.resize != "none":
        mode = modes(preprocessing.interpolation)
        picture = functional.resize(picture, scaled(height, width, preprocessing), interpolation=mode)
    fill = [round(255 * value) for value in preprocessing.mean] if preprocessing.resize == "pad" else 0
    picture = _centre(picture, preprocessing, fill)
    picture = _tensor(picture) if preprocessing.resampler == "pil" else picture
    return picture.flip(0) if preprocessing.channels == "bgr" else picture  # type: ignore[no-any-return]


def map_of(labels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return a label map ``[height, width]``, resized (nearest neighbour) and cropped like its image; 255 outside."""
    functional, modes = _library()
    picture = labels[None].to(torch.int32)
    if preprocessing.resize != "none":
        size = scaled(int(labels.shape[0]), int(labels.shape[1]), preprocessing)
        picture = functional.resize(picture, size, interpolation=modes("nearest-exact"))
    cut: Tensor = _centre(picture, preprocessing, OUTSIDE)[0]
    return cut.long()


def normalized(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return uint8 images ``[batch, channels, height, width]`` as normalised float32 inputs of the same shape.

    The operations are the same as in timm and torchvision (``pil``) or transformers (``torch``), in the same order, so
    that the results are bit-equal.
    """
    mean = torch.tensor(preprocessing.mean)[:, None, None]
    std = torch.tensor(preprocessing.std)[:, None, None]
    if preprocessing.resampler == "torch":
        return images.float().sub_(mean * 255.0).div_(std * 255.0)
    return images.float().div_(255.0).sub_(mean).div_(std)


def scaled(height: int, width: int, preprocessing: Preprocessing) -> list[int]:
    """Return the height and width that an image is scaled to, before it is cropped."""
    to = preprocessing.resize_to
    if preprocessing.resize == "squash":
        return list(to)
    ratios = (height / to[0], width / to[1])
    if preprocessing.resize == "pad":
        return [max(1, round(extent / max(ratios))) for extent in (height, width)]
    if to[0] == to[1]:
        short = min(height, width)
        return [to[0] if extent == short else int(to[0] * extent / short) for extent in (height, width)]
    return [round(extent / min(ratios)) for extent in (height, width)]


def _centre(picture: Any, preprocessing: Preprocessing, fill: Any) -> Any:
    """Crop the centre; pixels outside the image are filled."""
    functional, _ = _library()
    height, width = preprocessing.size
    tall, wide = functional.get_size(picture)
    if tall < height or wide < width:
        missing_height, missing_width = max(height - tall, 0), max(width - wide, 0)
        sides = [missing_width // 2, missing_height // 2, (missing_width + 1) // 2, (missing_height + 1) // 2]
        picture = functional.pad(picture, sides, fill=fill)
        tall, wide = max(tall, height), max(wide, width)
    # The libraries round half of an odd difference differently.
    middle = int if preprocessing.resampler == "torch" else round
    top, left = int(middle((tall - height) / 2.0)), int(middle((wide - width) / 2.0))
    return functional.crop(picture, top, left, height, width)


def _tensor(image: Image) -> Tensor:
    """Pixels as uint8 ``[channels, height, width]``."""
    pixels = torch.from_numpy(numpy.array(image))
    return (pixels[:, :, None] if pixels.dim() == 2 else pixels).permute(2, 0, 1).contiguous()


def _library() -> tuple[Any, Any]:
    try:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional
    except ImportError as error:
        raise missing("torchvision", "eval", "resizing images") from error
    return functional, InterpolationMode
