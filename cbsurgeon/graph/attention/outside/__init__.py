"""Code outside the captured parts of a model: in front of the first block, between blocks, and behind the last.

Belongs here: runs of the whole module, and the decision whether this code hides tokens. Not here: stacks inside a
captured program (``probing``, ``causality.py``, ``hiding``).
"""
