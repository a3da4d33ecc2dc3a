"""safetensors files: reading them by stricter rules than the library's, and writing models larger than the memory.

Belongs here: the format. Not here: what cbsurgeon writes into its metadata (``models.files.metadata``), other kinds of
checkpoints (``models.files``).
"""
