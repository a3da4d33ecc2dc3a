"""Attention in a graph: scores, causal and padding masks, the class token.

Belongs here: what a graph says about which token sees which. Not here: refusing an insertion because of it
(``surgery``), statistics of attention maps.
"""
