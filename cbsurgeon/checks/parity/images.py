"""Real images to compare two models on: inputs, how often the largest class is the same, and what margin was lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cbsurgeon.checks.parity.inputs import Feed
from cbsurgeon.data import open_data
from cbsurgeon.deploy.runtimes import Runtime, Target
from cbsurgeon.deploy.stated import preprocessing_in
from cbsurgeon.errors import UsageError
from cbsurgeon.models import Model, Preprocessing, preprocessing_of

IMAGES = "images"
MOST, BATCH = 128, 32
"""Images compared, at even distances in the dataset, and images a batch."""


@dataclass
class Agreement:
    """How two models classify the same images.

    Attributes:
        samples: images compared.
        same: those with the same largest class.
        lost: the largest margin that the first model's class had over the second model's.
    """

    samples: int = 0
    same: int = 0
    lost: float = 0.0

    def add(self, left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
        """Count one batch of outputs; the first output of shape ``[batch, classes]`` is the one that counts."""
        name = next((name for name, value in left.items() if value.dim() == 2 and value.shape[1] > 1), None)
        if name is None:
            return
        a, b = left[name].float().cpu(), right[name].float().cpu()
        first, second = a.argmax(1, keepdim=True), b.argmax(1, keepdim=True)
        self.samples += len(a)
        self.same += int((first == second).sum())
        self.lost = max(self.lost, float((a.gather(1, first) - a.gather(1, second)).max()))

    def to_dict(self, data: str) -> dict[str, Any] | None:
        """JSON form; ``None`` where no output holds classes."""
        if not self.samples:
            return None
        share = self.same / self.samples
        return {"data": data, "samples": self.samples, "top1": share, "largest_margin_lost": self.lost}


def image_feeds(data: str | Path, targets: tuple[Target, Target], runtime: Runtime) -> Iterator[Feed]:
    """Batches of a dataset in the preprocessing that the models state.

    Raises:
        UsageError: neither model states one (``CB-DATA-01``), they state different ones (``CB-VERIFY-06``), or the
            dataset has other inputs than the model (``CB-DATA-10``).
        InputFileError: the dataset cannot be read (``CB-DATA-*``).
    """
    stated = [view for target in targets if (view := _stated(target)) is not None]
    if len(stated) == 2 and stated[0].differences(stated[1]):
        told = "; ".join(f"{name}: {one} and {two}" for name, (one, two) in stated[0].differences(stated[1]).items())
        raise UsageError(
            "the two models state different preprocessings",
            code="CB-VERIFY-06",
            where=str(data),
            why=told,
            do="cbsurgeon evaluate A B --data DATA runs each in its own; or export the file again",
        )
    batch = runtime.only_batch or BATCH
    for part in open_data(data, stated[0] if stated else None, batch=batch, limit=MOST, workers=0):
        if len(part) == batch or runtime.only_batch is None:
            yield Feed(IMAGES, len(part), part.named([port.name for port in runtime.inputs]))


def _stated(target: Target) -> Preprocessing | None:
    if isinstance(target, Model):
        return preprocessing_of(target)
    return preprocessing_in(target) if isinstance(target, str | Path) and Path(target).suffix != ".pt2" else None
