"""Robustness: metrics on corrupted and attacked images (paper, Tables 8 and 9).

Belongs here: attacks, and running models on changed images. Not here: the corruptions themselves
(``data.corruptions``).
"""

from cbsurgeon.evaluation.robustness.running import Stressed
from cbsurgeon.evaluation.robustness.stress import Stress, stresses
from cbsurgeon.evaluation.robustness.summary import summarize

__all__ = ["Stress", "Stressed", "stresses", "summarize"]
