"""Attention maps in a graph: which tensors hold the attention weights, and what their axes are.

Belongs here: finding attention weights in a graph. Not here: statistics of them (``analysis``).
"""
