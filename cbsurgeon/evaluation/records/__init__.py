"""What an evaluation records of each image, the table of it, and the part that an interrupted run had finished.

Not here: the metrics' definitions (``evaluation.metrics``), the result made from the table (``evaluation.summary``).
"""
