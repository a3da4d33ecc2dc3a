"""From a checkpoint to a module: what its tensors tell about the architecture, and the strict load.

Not here: reading the file (``models.files``), building an architecture by its name (``models.builders``).
"""
