"""Mean average precision for several labels per image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cbsurgeon.evaluation.metrics.base import Metric
from cbsurgeon.evaluation.metrics.library import torchmetrics


class MeanAveragePrecision(Metric):
    """Mean over classes of the area under the precision-recall curve."""

    name, title, task = "map", "mAP", "multilabel"

    def record(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Record the outputs and labels of every class."""
        return torch.cat([outputs.double(), targets.double()], 1)

    def value(self, records: Tensor) -> float:
        """See :meth:`Metric.value`; classes without images are left out."""
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
