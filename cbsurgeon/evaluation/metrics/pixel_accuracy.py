"""Pixel accuracy of label maps."""

from __future__ import annotations

import torch
from torch import Tensor

from cbsurgeon.evaluation.metrics.base import Metric
from cbsurgeon.models.imaging import OUTSIDE


class PixelAccuracy(Metric):
    """Share of labelled pixels that get their class, over all images."""

    name, title, task = "pixel_accuracy", "pixel accuracy", "segmentation"

    def record(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Right pixels and labelled pixels."""
        counted = targets != OUTSIDE
        right = (outputs.argmax(1) == targets) & counted
        return torch.stack([right.flatten(1).sum(1), counted.flatten(1).sum(1)], 1)

    def value(self, records: Tensor) -> float:
        """As :meth:`Metric.value`."""
        right, counted = records.sum(0).tolist()
        return right / counted if counted else float("nan")
