"""Metrics by task, computed by torchmetrics; one file each.

Belongs here: what turns outputs and targets into a number. Not here: the difference of two models
(``evaluation.comparison``).
"""

from cbsurgeon.evaluation.metrics.base import Metric
from cbsurgeon.evaluation.metrics.registry import METRICS, metrics_of

__all__ = ["METRICS", "Metric", "metrics_of"]
