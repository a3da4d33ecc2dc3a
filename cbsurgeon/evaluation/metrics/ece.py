"""Expected calibration error."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cbsurgeon.evaluation.metrics.base import Metric
from cbsurgeon.evaluation.metrics.library import torchmetrics

BINS = 15
"""Bins of equal width, as in Guo et al., On Calibration of Modern Neural Networks, ICML 2017."""


class ECE(Metric):
    """Mean distance between confidence and accuracy over 15 bins of confidence, weighted by their numbers of images."""

    name, title, higher = "ece", "ECE", False

    def record(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Record the confidence of the prediction, and whether it is correct."""
        confidence, prediction = outputs.double().softmax(1).max(1)
        return torch.stack([confidence, (prediction == targets).double()], 1)

    def value(self, records: Tensor) -> float:
        """See :meth:`Metric.value`."""
        if not records.isfinite().all():
            return math.nan
        # The calibration error of many classes equals that of two: "the prediction is correct" or not.
        error = torchmetrics().functional.classification.binary_calibration_error(
            records[:, 0].float(), records[:, 1].long(), n_bins=BINS, validate_args=False
        )
        return float(error)
