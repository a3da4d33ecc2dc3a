"""Latency: timing two models against each other."""
