"""From a checkpoint to a module: find the options of its architecture from its tensors, and load it strictly.

Not here: reading the file (``models.files``), building an architecture by its name (``models.builders``).
"""
