"""Pickles, read as data: which names a pickle may use, and what it builds."""
