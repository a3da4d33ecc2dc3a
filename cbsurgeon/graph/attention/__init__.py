"""Attention in a graph: scores, attention maps, causal and padding masks, the class token.

Belongs here: which tokens attend to which. Not here: refusing an insertion because of it (``surgery``), statistics of
attention maps (``analysis``).
"""
