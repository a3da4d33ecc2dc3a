"""Attention maps in a graph: which tensors hold the weights, and what their axes stand for.

Belongs here: where attention weights are in a graph. Not here: what is computed from them.
"""
