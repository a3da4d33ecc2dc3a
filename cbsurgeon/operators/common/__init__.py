"""Shared by all operators: classes of their cost, padding masks, axes to split, notes in state dicts, weight decay.

Not here: an operator's own formula, cost and folding (its file in ``operators``).
"""
