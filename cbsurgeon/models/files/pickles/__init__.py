"""Pickles, read as data: which names a pickle may use, and what it builds.

Belongs here: a scan of a pickle's instructions. Not here: archives around it (``models.files.archive``).
"""
