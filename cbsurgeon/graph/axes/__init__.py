"""Axis roles: which dimension of every tensor is batch, token or channel."""
