"""The kinds of datasets: one file for each, and ``registry``, which finds the file for a reference.

``source`` is what every kind implements. Not here: decoding, preprocessing and batches (``data``).
"""
