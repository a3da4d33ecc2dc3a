"""The records of an evaluation: the numbers per image, their table, and saving them for ``--resume``.

Not here: the definitions of metrics (``evaluation.metrics``), the result made from the table (``evaluation.summary``).
"""
