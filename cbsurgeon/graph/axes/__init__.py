"""Axis roles: which dimension of every tensor is batch, token or channel.

Belongs here: how each kind of operator changes axes. Not here: what an operator is called (``graph.aten``).
"""
