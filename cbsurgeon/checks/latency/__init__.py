"""Latency: measuring whether one model is slower than another.

Belongs here: sampling, statistics and the verdict. Not here: running one call (``deploy.runtimes``).
"""
