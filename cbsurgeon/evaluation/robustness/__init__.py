"""How models bear corrupted and attacked images (paper, Tables 8 and 9): what is done, running it, and its result.

Belongs here: running a model on images that were changed. Not here: the corruptions themselves (``data.corruptions``).
"""

from cbsurgeon.evaluation.robustness.running import Stressed
from cbsurgeon.evaluation.robustness.stress import Stress, stresses
from cbsurgeon.evaluation.robustness.summary import summarize

__all__ = ["Stress", "Stressed", "stresses", "summarize"]
