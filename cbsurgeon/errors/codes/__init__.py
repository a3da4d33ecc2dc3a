"""The explanation of every error code, one file for related areas.

A file holds ``CODES``: code -> :class:`~cbsurgeon.errors.entry.Entry`. Which file an area is in is said by
:data:`cbsurgeon.errors.table.AREAS`. A test compares the codes here with those the package raises.

Not here: raising an error, nor its own sentence, which stands where it is raised.
"""
