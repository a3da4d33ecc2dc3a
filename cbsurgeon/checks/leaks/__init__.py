"""Probes for leaks: what a token must not see is changed, and the outputs that must not depend on it are compared.

Not here: what a graph says about causality and padding (``graph.attention``), and refusing an insertion because of it
(``surgery``).
"""

from cbsurgeon.checks.leaks.insertion import leaks_of
from cbsurgeon.checks.leaks.probes import future_leak, padding_leak
from cbsurgeon.checks.leaks.result import Gap, Leak

__all__ = ["Gap", "Leak", "future_leak", "leaks_of", "padding_leak"]
