"""Folding inserted operators into the weights around them.

Belongs here: the graph patterns around an inserted operator, and the rewrites that change the weights. Not here:
whether an operator can be folded at all, which each operator states itself (``operators``).
"""
