"""Adapters for other projects' training programs; each is thin and optional.

Not here: the insertion itself (``surgery``), reading and writing a checkpoint's metadata (``models/files``).
"""
