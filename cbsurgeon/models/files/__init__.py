"""Files: read without running code, and written completely or not at all.

Belongs here: file formats, their limits and their dangers. Not here: the architecture of the weights
(``models.checkpoints``, ``models.loading``).
"""
