"""Runs of one stack with changed tokens, and the order in which its tokens see each other.

Belongs here: which part of a program is run, and which tokens influence which. Not here: which inputs hide tokens
(``hiding``).
"""
