"""Shared by the commands: flags generated from ``options``, the terminal, and error output.

Not here: a command itself (its file in ``cli``).
"""
