"""Scan pickles without running them: which names a pickle uses, and what it would build.

Belongs here: the scan of a pickle's instructions. Not here: the archive that contains it (``models.files.archive``).
"""
