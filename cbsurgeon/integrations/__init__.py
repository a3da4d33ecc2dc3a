"""Integrations with other libraries for training and for distributing work over machines; each is thin and optional.

Not here: the insertion itself (``surgery``), reading and writing a checkpoint's metadata (``models/files``).
"""
