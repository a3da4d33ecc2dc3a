"""How an image becomes a model's input: size, crop, interpolation, mean, standard deviation, channel order.

The builders find the description (timm's data config, transformers' image processors, the transforms of torchvision's
weights). It is stored in every file that is written, and read back from there. :mod:`cbsurgeon.data` applies it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.vocabulary import INTERPOLATIONS, RESIZES

CHANNELS = {"rgb": 3, "bgr": 3, "grey": 1}
RESAMPLERS = ("pil", "torch")
LARGEST_EDGE = 1 << 14
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NAMED = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD)}


@dataclass(frozen=True)
class Preprocessing:
    """How a decoded image of any size, 0 to 255, becomes one model input ``[channels, height, width]``.

    Attributes:
        size: height and width of the input, cropped from the centre of the resized image.
        mean, std: one number per channel, for values from 0 to 1: ``(value / 255 - mean) / std``.
        resize: one of :data:`cbsurgeon.vocabulary.RESIZES`; the crop of ``size`` at the centre follows.
        resize_to: height and width that ``resize`` scales to.
        interpolation: one of :data:`cbsurgeon.vocabulary.INTERPOLATIONS`.
        channels: ``rgb``, ``bgr`` or ``grey``.
        resampler: ``pil`` scales as Pillow does, ``torch`` as torchvision does on tensors (they differ by up to 1 of
            255 levels).
        source: where the description comes from, for display.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str
    resize_to: tuple[int, int]
    interpolation: str
    channels: str = "rgb"
    resampler: str = "pil"
    source: str = "flags"

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise UsageError(
                "the description of the preprocessing is not valid",
                code="CB-DATA-02",
                where=self.source,
                why=problem,
                do="give --size 224 --crop 0.875 --interpolation bicubic --mean imagenet --std imagenet",
            )

    @property
    def crop(self) -> float:
        """The share of the resized shorter edge that the crop keeps (timm's ``crop_pct``)."""
        return min(self.size[0] / self.resize_to[0], self.size[1] / self.resize_to[1])

    def differences(self, other: Preprocessing) -> dict[str, tuple[Any, Any]]:
        """Return the differences from another description: field → (this value, the other's). ``source`` is ignored."""
        one, two = asdict(self), asdict(other)
        return {name: (one[name], two[name]) for name in one if name != "source" and one[name] != two[name]}

    def to_dict(self) -> dict[str, Any]:
        """JSON form, with :attr:`crop` added for information."""
        document = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {**document, "crop": round(self.crop, 6)}

    def __str__(self) -> str:
        height, width = self.size
        scaled = {
            "shortest": f"shorter edge to {min(self.resize_to)}",
            "squash": f"to {self.resize_to[0]}x{self.resize_to[1]}",
            "pad": f"into {self.resize_to[0]}x{self.resize_to[1]}, rest filled",
            "none": "not resized",
        }[self.resize]
        numbers = " ".join(
            f"{name} {', '.join(f'{value:g}' for value in values)}"
            for name, values in (("mean", self.mean), ("std", self.std))
        )
        method = "" if self.resize == "none" else f" ({self.interpolation})"
        return f"{scaled}{method}, crop {height}x{width}, {self.channels.upper()}, {numbers}"


def from_dict(document: Any, where: str) -> Preprocessing:
    """Parse the JSON form; everything in it is checked.

    Raises:
        InputFileError: it is not valid (``CB-DATA-02``).
    """
    try:
        if not isinstance(document, Mapping):
            raise TypeError(f"it is {type(document).__name__}, not an object")
        return Preprocessing(
            size=_pair(document["size"]),
            mean=_numbers(document["mean"]),
            std=_numbers(document["std"]),
            resize=str(document["resize"]),
            resize_to=_pair(document["resize_to"]),
            interpolation=str(document["interpolation"]),
            channels=str(document.get("channels", "rgb")),
            resampler=str(document.get("resampler", "pil")),
            source=str(document.get("source", where))[:200],
        )
    except (KeyError, TypeError, ValueError, UsageError) as error:
        why = error.why if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
        raise InputFileError(
            "the preprocessing in the file cannot be read",
            code="CB-DATA-02",
            where=where,
            why=why[:200],
            do="write the file again, or give --size, --crop, --interpolation, --mean and --std",
        ) from error


def cropped(
    size: Sequence[int],
    crop: float | int,
    *,
    resize: str = "shortest",
    **rest: Any,
) -> Preprocessing:
    """Return the usual description: resize, then crop ``size`` from the centre.

    Args:
        size: height and width of the input; if ``crop`` is in pixels, what the shorter edge is scaled to.
        crop: up to 1: the share of the resized edge that is kept, so that the edge is scaled to ``floor(size / crop)``;
            above 1: the edge of the crop in pixels.
        resize: as in :class:`Preprocessing`.
        rest: the other fields.

    Raises:
        UsageError: a value is not valid (``CB-DATA-02``).
    """
    height, width = (int(extent) for extent in size)
    if crop > 1:
        edge = int(crop)
        return Preprocessing(size=(edge, edge), resize=resize, resize_to=(height, width), **rest)
    if not crop > 0:
        raise UsageError(
            "the crop is empty",
            code="CB-DATA-02",
            where=f"--crop {crop}",
            why="the crop is the part of the image that remains, above 0",
            do="--crop 0.875",
        )
    scaled = (math.floor(height / crop), math.floor(width / crop))
    return Preprocessing(size=(height, width), resize=resize, resize_to=scaled, **rest)


def changed(base: Preprocessing | None, *, where: str = "", **flags: Any) -> Preprocessing:
    """Return a description changed by what the user gave; without a base, the user has to give all of it.

    Args:
        base: the model's own description, if it has one.
        where: the model, for the error.
        flags: ``size`` (pair), ``crop`` (as :func:`cropped`), ``resize``, ``interpolation``, ``mean``, ``std`` (numbers
            or ``imagenet``), ``channels``; ``None`` keeps the base's.

    Raises:
        UsageError: something is missing that only the user can know (``CB-DATA-01``), or is wrong (``CB-DATA-02``).
    """
    given = {name: value for name, value in flags.items() if value is not None}
    for name, index in (("mean", 0), ("std", 1)):
        if isinstance(given.get(name), str | int | float):
            given[name] = _spelled(str(given[name]), name, index)
    if base is None:
        needed = ("size", "crop", "interpolation", "mean", "std")
        missing = [f"--{name}" for name in needed if name not in given]
        if missing:
            raise UsageError(
                "the preprocessing of the images is unknown",
                code="CB-DATA-01",
                where=where,
                why=f"the model does not define it, and {', '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not given",
                do="give those of your training, with the size of the model's input: "
                "--size 224 --crop 0.875 --interpolation bicubic --mean imagenet --std imagenet",
            )
        return cropped(given.pop("size"), given.pop("crop"), source="flags", **given)
    if not given:
        return base
    source = f"{base.source}, changed by {', '.join(f'--{name}' for name in given)}"
    if "size" in given or "crop" in given:
        size, crop = given.pop("size", base.size), given.pop("crop", base.crop)
        resize = given.get("resize", base.resize)
        shape = cropped(size, crop, resize=resize, **_kept_fields(base))
        base = replace(base, size=shape.size, resize_to=shape.resize_to)
    found = replace(base, **{**given, "source": source})
    return base if replace(found, source=base.source) == base else found


def resized(base: Preprocessing, size: tuple[int, int]) -> Preprocessing:
    """Return the description for another input size; ``resize_to`` changes in proportion."""
    if size == base.size:
        return base
    height, width = (math.floor(base.resize_to[axis] * size[axis] / base.size[axis]) for axis in (0, 1))
    source = f"{base.source}, scaled from {base.size[0]}x{base.size[1]}"
    return replace(base, size=size, resize_to=(height, width), source=source)


def _kept_fields(base: Preprocessing) -> dict[str, Any]:
    names = ("mean", "std", "interpolation", "channels", "resampler", "source")
    return {name: getattr(base, name) for name in names}


def _spelled(text: str, name: str, index: int) -> tuple[float, ...]:
    if text in _NAMED:
        return _NAMED[text][index]
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers:
        raise UsageError(
            f"--{name} takes numbers, or imagenet",
            code="CB-DATA-02",
            where=f"--{name} {text}",
            why="it needs one number, or one per colour channel",
            do=f"--{name} {','.join(map(str, _NAMED['imagenet'][index]))}",
        )
    return numbers * 3 if len(numbers) == 1 else numbers


def _pair(value: Any) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(type(extent) is int for extent in value):
        raise TypeError(f"{str(value)[:40]} is not a height and width")
    return value[0], value[1]


def _numbers(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list | tuple) or not all(type(number) in (int, float) for number in value):
        raise TypeError(f"{str(value)[:40]} is not a list of numbers")
    return tuple(float(number) for number in value)


def _problem(found: Preprocessing) -> str:
    """Return the problem of a description; empty if it is valid."""
    choices = (
        ("resize", found.resize, RESIZES),
        ("interpolation", found.interpolation, INTERPOLATIONS),
        ("channels", found.channels, tuple(CHANNELS)),
        ("resampler", found.resampler, RESAMPLERS),
    )
    for name, value, known in choices:
        if value not in known:
            return f"{name} is {value[:40]!r}, not one of {', '.join(known)}"
    for name, edges in (("size", found.size), ("resize_to", found.resize_to)):
        if not all(1 <= edge <= LARGEST_EDGE for edge in edges):
            return f"{name} is {list(edges)}; edges are from 1 to {LARGEST_EDGE}"
    count = CHANNELS[found.channels]
    for name, numbers in (("mean", found.mean), ("std", found.std)):
        if len(numbers) != count:
            return f"{name} has {len(numbers)} numbers for {count} channels ({found.channels})"
        if not all(math.isfinite(number) for number in numbers):
            return f"{name} is not finite"
    return "" if all(number > 0 for number in found.std) else "std has a number that is not above 0"
