"""Options of datasets: how they are read, and how images become a model's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cbsurgeon.options.flags import option
from cbsurgeon.options.texts import edges, number
from cbsurgeon.vocabulary import CLASS_ORDERS, INTERPOLATIONS, RESIZES

DATA_HELP = (
    "A folder of images (one sub-folder per class, or flat), file.npz, hf:DIRECTORY (saved by datasets), wds:PATTERN "
    "(WebDataset shards), or torchvision:NAME:ROOT."
)
PREPROCESSING = ("size", "crop", "resize", "interpolation", "mean", "std", "channels")
"""The fields that describe how images become a model's input."""


@dataclass(frozen=True)
class DataOptions:
    """How a dataset is read (:func:`cbsurgeon.data.open_data`)."""

    batch: int = option(
        32, "Samples of the dataset per batch.", "--batch", metavar="N", number=int, least=1, shown="32"
    )
    workers: int | None = option(
        None,
        "Number of processes that decode images; 0 decodes in the main process.",
        "--workers",
        metavar="N",
        number=int,
        least=0,
        shown="half of the cores, at most 8",
    )
    limit: int | None = option(
        None,
        "Use at most this many samples, evenly spaced.",
        "--limit",
        metavar="N",
        number=int,
        least=1,
        shown="all",
    )
    strict: bool = option(
        False, "Fail at the first sample that cannot be read, instead of leaving it out and counting it.", "--strict"
    )
    order: str | None = option(
        None, "Order of classes whose folders have numbers as names.", "--class-order", choices=CLASS_ORDERS
    )
    size: tuple[int, int] | None = option(
        None,
        "Height and width of the model's input; with --crop in pixels, the size of the shorter edge after scaling.",
        "--size",
        metavar="N|HxW",
        read=edges,
        shown="the model's own",
    )
    crop: float | None = option(
        None,
        "Fraction of the scaled image that the centre crop keeps, such as 0.875 (1 keeps all of it); or, above 1, the "
        "edge of the crop in pixels.",
        "--crop",
        metavar="SHARE|N",
        read=number,
        shown="the model's own",
    )
    resize: str | None = option(
        None,
        "Scale the shorter edge, both edges (squash), until the image fits (pad), or not at all.",
        "--resize",
        choices=RESIZES,
        shown="the model's own",
    )
    interpolation: str | None = option(
        None, "Interpolation of the scaling.", "--interpolation", choices=INTERPOLATIONS, shown="the model's own"
    )
    mean: Any = option(
        None,
        "Mean of each channel for values from 0 to 1, or imagenet.",
        "--mean",
        metavar="R,G,B",
        shown="the model's own",
    )
    std: Any = option(
        None,
        "Standard deviation of each channel for values from 0 to 1, or imagenet.",
        "--std",
        metavar="R,G,B",
        shown="the model's own",
    )
    channels: str | None = option(
        None, "Channels of the model's input.", "--channels", choices=("rgb", "bgr", "grey"), shown="the model's own"
    )

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The options that describe preprocessing; ``None`` for those that were not given."""
        return {name: getattr(self, name) for name in PREPROCESSING}
