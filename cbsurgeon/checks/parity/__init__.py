"""Parity: whether two models compute the same outputs, and where they part."""
