"""The metrics of each task, computed by torchmetrics; one file per metric.

Belongs here: computing a number from outputs and targets. Not here: the difference of two models
(``evaluation.comparison``).
"""

from cbsurgeon.evaluation.metrics.base import Metric
from cbsurgeon.evaluation.metrics.registry import METRICS, metrics_of

__all__ = ["METRICS", "Metric", "metrics_of"]
