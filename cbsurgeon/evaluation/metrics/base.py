"""The base class of metrics: a few numbers per image, and a value computed from those of many images.

Numbers are recorded per image, so that differences between two models can be paired, several processes give the same
result as one, and an interrupted evaluation can continue.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Metric(ABC):
    """One metric of one task.

    Attributes:
        name: its key in results.
        title: its name in reports.
        task: the task it belongs to (:data:`cbsurgeon.vocabulary.TASKS`).
        higher: whether larger values are better.
        percent: whether its value is a fraction, shown in per cent.
        binary: whether each image counts as 0 or 1, and the value is the mean.
        least: smallest number of classes for which it is useful.
    """

    name: str
    title: str
    task: str = "classification"
    higher: bool = True
    percent: bool = True
    binary: bool = False
    least: int = 2

    @abstractmethod
    def record(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the numbers to record for each image.

        Args:
            outputs: float32, finite; ``[batch, classes]``, or ``[batch, classes, height, width]``.
            targets: labels as in :class:`cbsurgeon.data.Batch`.

        Returns:
            ``[batch, numbers]``.
        """

    def value(self, records: Tensor) -> float:
        """Compute the metric from the records of many images.

        Args:
            records: float64 ``[images, numbers]``.
        """
        return float(records[:, 0].mean())

    @property
    def mean(self) -> bool:
        """Whether the value is the mean of one number per image."""
        return type(self).value is Metric.value

    def lost(self, records: Tensor) -> Tensor:
        """Return the records of images whose outputs are not finite: 0 (wrong) for binary metrics, else NaN."""
        return torch.full_like(records, 0.0 if self.binary else math.nan)
