"""Folding inserted operators into the weights around them.

Belongs here: patterns around an inserted operator and the weights that take it up. Not here: what of an operator can be
folded, which it states itself (``operators``).
"""
