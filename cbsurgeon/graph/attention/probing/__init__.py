"""Running parts of a program with changed tokens or samples, to see which others change.

Belongs here: proofs by running, where the graph alone does not decide. Not here: what the graph shows without a run
(``graph.attention``).
"""
