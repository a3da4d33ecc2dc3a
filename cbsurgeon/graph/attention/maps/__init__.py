"""Attention maps in a graph: which tensors hold the weights, and what their axes stand for."""
