"""Files: read without running code, written complete or not at all.

Belongs here: formats, their limits and their dangers. Not here: which architecture the weights belong to
(``models.loading``).
"""
