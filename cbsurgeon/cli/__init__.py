"""The command line: parse, call the verb, show the result, exit. One file per verb.

Belongs here: flags, the terminal, exit codes. Not here: anything that Python users need too, which is a verb
(``verbs``) or an option (``options``).
"""

from cbsurgeon.cli.entry import main

__all__ = ["main"]
