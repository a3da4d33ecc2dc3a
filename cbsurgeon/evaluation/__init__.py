"""Accuracy of a model on data, and of two models on the same images: metrics, paired differences, what is wrong.

Belongs here: metrics, paired statistics and the search for faults of a set-up. Not here: reading data (``data``),
outputs compared number by number (``checks.parity``).
"""

from cbsurgeon.evaluation.comparison import Claim, Difference
from cbsurgeon.evaluation.diagnosis import Finding
from cbsurgeon.evaluation.evaluating import evaluate
from cbsurgeon.evaluation.metrics import METRICS, Metric
from cbsurgeon.evaluation.result import Evaluation, Flip

__all__ = ["METRICS", "Claim", "Difference", "Evaluation", "Finding", "Flip", "Metric", "evaluate"]
