"""Comparing two models on real images: the inputs, top-1 agreement, and the largest margin lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cbsurgeon.checks.parity.inputs.feed import Feed
from cbsurgeon.data import open_data
from cbsurgeon.deploy.runtimes import Runtime, Target
from cbsurgeon.deploy.stated import preprocessing_in
from cbsurgeon.errors import UsageError
from cbsurgeon.models import Model, Preprocessing, preprocessing_of
from cbsurgeon.vocabulary import IMAGES

MOST, BATCH = 128, 32
"""Number of images compared, evenly spaced in the dataset, and images per batch."""


@dataclass
class Agreement:
    """How two models classify the same images.

    Attributes:
        samples: number of images compared.
        same: number of images with the same top class.
        lost: largest margin, in the first model, of its own top class over the second model's top class.
    """

    samples: int = 0
    same: int = 0
    lost: float = 0.0

    def add(self, left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
        """Add one batch of outputs; the first output of shape ``[batch, classes]`` is used."""
        name = next((name for name, value in left.items() if value.dim() == 2 and value.shape[1] > 1), None)
        if name is None:
            return
        a, b = left[name].float().cpu(), right[name].float().cpu()
        first, second = a.argmax(1, keepdim=True), b.argmax(1, keepdim=True)
        self.samples += len(a)
        self.same += int((first == second).sum())
        self.lost = max(self.lost, float((a.gather(1, first) - a.gather(1, second)).max()))

    def to_dict(self, data: str) -> dict[str, Any] | None:
        """JSON form; ``None`` if no output has class scores."""
        if not self.samples:
            return None
        share = self.same / self.samples
        return {"data": data, "samples": self.samples, "top1": share, "largest_margin_lost": self.lost}


def image_feeds(data: str | Path, targets: tuple[Target, Target], runtime: Runtime) -> Iterator[Feed]:
    """Yield batches of a dataset, with the models' own preprocessing.

    Raises:
        UsageError: neither model stores its preprocessing (``CB-DATA-01``), the two store different ones
            (``CB-VERIFY-06``), or the dataset's inputs are not the model's (``CB-DATA-10``).
        InputFileError: the dataset cannot be read (``CB-DATA-*``).
    """
    stated = [view for target in targets if (view := _stated(target)) is not None]
    if len(stated) == 2 and stated[0].differences(stated[1]):
        told = "; ".join(f"{name}: {one} and {two}" for name, (one, two) in stated[0].differences(stated[1]).items())
        raise UsageError(
            "the two models have different preprocessing",
            code="CB-VERIFY-06",
            where=str(data),
            why=told,
            do="use cbsurgeon evaluate A B --data DATA, which runs each with its own; or export the file again",
        )
    batch = runtime.only_batch or BATCH
    for part in open_data(data, stated[0] if stated else None, batch=batch, limit=MOST, workers=0):
        if len(part) == batch or runtime.only_batch is None:
            named = part.named([port.name for port in runtime.inputs], where=runtime.name)
            yield Feed(IMAGES, len(part), named)


def _stated(target: Target) -> Preprocessing | None:
    if isinstance(target, Model):
        return preprocessing_of(target)
    return preprocessing_in(target) if isinstance(target, str | Path) and Path(target).suffix != ".pt2" else None
