"""The command line: parse, call the API, render, exit. One file per verb.

Belongs here: flags, the terminal, exit codes. Not here: anything that a Python user would miss; that is a verb
(``verbs``) or an option (``options``).
"""

from cbsurgeon.cli.entry import main

__all__ = ["main"]
