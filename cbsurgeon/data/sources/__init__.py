"""The kinds of datasets: one file per kind, and ``registry``, which chooses the kind for a reference.

``source`` has the base classes of all kinds. Not here: decoding, preprocessing and batches (``data``).
"""
