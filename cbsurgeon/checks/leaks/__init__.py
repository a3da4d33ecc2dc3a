"""Leak probes: change inputs that a token must not see, and check that its outputs do not change.

Not here: proving causality and padding from the graph (``graph.attention``), refusing an insertion because of them
(``surgery``).
"""

from cbsurgeon.checks.leaks.insertion import leaks_of
from cbsurgeon.checks.leaks.probes import future_leak, padding_leak
from cbsurgeon.checks.leaks.result import Gap, Leak

__all__ = ["Gap", "Leak", "future_leak", "leaks_of", "padding_leak"]
