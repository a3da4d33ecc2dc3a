"""Inputs that hide tokens by other means than an attention mask.

Belongs here: the values of an input that are tried, and what follows from them. Not here: the runs themselves
(``probing``), the padding mask of an attention (``padding.py``).
"""
