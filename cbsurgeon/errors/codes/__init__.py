"""The explanation of every error code, one file for related areas.

A file holds ``CODES``: code -> :class:`~cbsurgeon.errors.entry.Entry`. :data:`cbsurgeon.errors.table.AREAS` maps each
area to its file. A test compares the codes here with those the package raises.

Not here: raising an error, nor its message, which is written where it is raised.
"""
