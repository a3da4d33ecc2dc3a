"""Latency: timing two models against each other.

Belongs here: sampling, statistics and the verdict. Not here: how one call is run (``deploy.runtimes``).
"""
