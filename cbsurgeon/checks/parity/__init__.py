"""Parity: whether two models compute the same outputs, and the first block in which they differ.

Belongs here: the inputs of the comparison, tolerances, the verdict, and bisection. Not here: leak probes
(``checks.leaks``).
"""
