"""What a metric is: a few numbers for each image, and a value of many images.

Images are recorded one by one, so that differences of two models can be paired, several processes give the numbers of
one, and an interrupted evaluation continues.
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
        title: its name for people.
        task: the task it belongs to (:data:`cbsurgeon.vocabulary.TASKS`).
        higher: larger values are better.
        percent: its value is a share, shown in per cent.
        binary: an image counts as 0 or 1, and the value is the mean.
        least: classes from which it says something.
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
        """The numbers of each image.

        Args:
            outputs: float32, finite; ``[batch, classes]``, or ``[batch, classes, height, width]``.
            targets: labels as :class:`cbsurgeon.data.Batch` has them.

        Returns:
            ``[batch, numbers]``.
        """

    def value(self, records: Tensor) -> float:
        """The metric of many images.

        Args:
            records: float64 ``[images, numbers]``.
        """
        return float(records[:, 0].mean())

    @property
    def mean(self) -> bool:
        """The value is the mean of one number an image."""
        return type(self).value is Metric.value

    def lost(self, records: Tensor) -> Tensor:
        """The numbers of images whose outputs are not finite: wrong where that has a meaning, otherwise unknown."""
        return torch.full_like(records, 0.0 if self.binary else math.nan)
