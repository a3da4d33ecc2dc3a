"""Evaluation: metrics of one model on a dataset, or of two models with paired differences and a diagnosis.

Belongs here: metrics, paired statistics, robustness, and finding mistakes such as a wrong preprocessing. Not here:
reading data (``data``), comparing outputs element by element (``checks.parity``).
"""

from cbsurgeon.evaluation.comparison import Claim, Difference
from cbsurgeon.evaluation.diagnosis import Finding
from cbsurgeon.evaluation.evaluating import evaluate
from cbsurgeon.evaluation.metrics import METRICS, Metric
from cbsurgeon.evaluation.result import Evaluation, Flip

__all__ = ["METRICS", "Claim", "Difference", "Evaluation", "Finding", "Flip", "Metric", "evaluate"]
