"""Residual branches, and the steps of a branch from the residual stream to the residual add.

Belongs here: recognising a branch, its projections and its sites. Not here: the decision that a branch is a block
(``graph.blocks.reader``), the reasons (``graph.reasons``).
"""
