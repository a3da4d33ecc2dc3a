"""Mean intersection over union of label maps."""

from __future__ import annotations

import torch
from torch import Tensor

from cbsurgeon.evaluation.metrics.base import Metric
from cbsurgeon.evaluation.metrics.library import torchmetrics
from cbsurgeon.models.imaging import OUTSIDE


class MeanIoU(Metric):
    """Mean over classes of intersection over union, both summed over all images (as for ADE20K)."""

    name, title, task = "miou", "mIoU", "segmentation"

    def record(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Record intersection and union of every class, in pixels."""
        counts = torchmetrics().functional.classification.multiclass_stat_scores(
            outputs.argmax(1),
            targets,
            num_classes=outputs.shape[1],
            average=None,
            multidim_average="samplewise",
            ignore_index=OUTSIDE,
        )
        right, false_alarms, missed = counts[..., 0], counts[..., 1], counts[..., 3]
        return torch.cat([right, right + false_alarms + missed], 1)

    def value(self, records: Tensor) -> float:
        """See :meth:`Metric.value`; classes that appear in no image are left out."""
        intersection, union = records.sum(0).chunk(2)
        held = union > 0
        return float((intersection[held] / union[held]).mean())
