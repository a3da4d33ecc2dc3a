"""Residual branches, and what stands on them from the stream to the residual add.

Belongs here: recognising a branch, its projections and its sites. Not here: the decision which branch is a block
(``graph.blocks.reader``), its reasons (``graph.reasons``).
"""
