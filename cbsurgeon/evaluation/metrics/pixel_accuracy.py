"""Pixel accuracy of label maps."""

from __future__ import annotations

import torch
from torch import Tensor

from cbsurgeon.evaluation.metrics.base import Metric
from cbsurgeon.models.imaging import OUTSIDE


class PixelAccuracy(Metric):
    """Fraction of labelled pixels that are classified correctly, over all images."""

    name, title, task = "pixel_accuracy", "pixel accuracy", "segmentation"

    def record(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Record the numbers of correct pixels and of labelled pixels."""
        counted = targets != OUTSIDE
        right = (outputs.argmax(1) == targets) & counted
        return torch.stack([right.flatten(1).sum(1), counted.flatten(1).sum(1)], 1)

    def value(self, records: Tensor) -> float:
        """See :meth:`Metric.value`."""
        right, counted = records.sum(0).tolist()
        return right / counted if counted else float("nan")
