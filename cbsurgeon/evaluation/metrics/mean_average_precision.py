"""Mean average precision of several labels an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cbsurgeon.evaluation.metrics.base import Metric
from cbsurgeon.evaluation.metrics.library import torchmetrics


class MeanAveragePrecision(Metric):
    """Mean over the classes of the area under precision and recall."""

    name, title, task = "map", "mAP", "multilabel"

    def record(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and labels of every class."""
        return torch.cat([outputs.double(), targets.double()], 1)

    def value(self, records: Tensor) -> float:
        """As :meth:`Metric.value`; classes that no image has do not count."""
        outputs, labels = records.chunk(2, 1)
        held = labels.any(0)
        if not held.any():
            return math.nan
        score = torchmetrics().functional.classification.multilabel_average_precision(
            outputs[:, held].sigmoid(),
            labels[:, held].long(),
            num_labels=int(held.sum()),
            average="macro",
            validate_args=False,
        )
        return float(score)
