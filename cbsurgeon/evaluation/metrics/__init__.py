"""Metrics by task, computed by torchmetrics; one file each."""

from cbsurgeon.evaluation.metrics.base import Metric
from cbsurgeon.evaluation.metrics.registry import METRICS, metrics_of

__all__ = ["METRICS", "Metric", "metrics_of"]
