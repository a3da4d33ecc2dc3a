"""Top-1 accuracy."""

from __future__ import annotations

from torch import Tensor

from cbsurgeon.evaluation.metrics.base import Metric
from cbsurgeon.evaluation.metrics.library import torchmetrics


class Top1(Metric):
    """Fraction of images whose largest output is that of their class."""

    name, title, binary = "top1", "top-1", True
    among: int = 1

    def record(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Record 1 if the class is among the ``among`` largest outputs, else 0."""
        classes = outputs.shape[1]
        right: Tensor = torchmetrics().functional.classification.multiclass_accuracy(
            outputs[:, :, None],
            targets[:, None],
            num_classes=classes,
            top_k=self.among,
            average="micro",
            multidim_average="samplewise",
        )
        return right[:, None]
