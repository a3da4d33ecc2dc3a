"""Programs of others that train, or that spread work over machines: thin, each optional.

Not here: the insertion itself (``surgery``), reading and writing a checkpoint's metadata (``models/files``).
"""
