"""Attention in a graph: scores, causal and padding masks, the class token."""
