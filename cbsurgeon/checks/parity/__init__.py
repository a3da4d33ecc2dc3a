"""Parity: whether two models compute the same outputs, and where they part.

Belongs here: inputs to compare on, tolerances, the judgement, and the search for the first block that differs. Not
here: probes for leaks (``checks.leaks``).
"""
