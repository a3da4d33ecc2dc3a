"""Training programs of others: thin, each optional.

Not here: the insertion itself (``surgery``), and what a checkpoint says of itself (``models/files``).
"""
