"""What the commands share: flags made from ``options``, the terminal, and how a failure is shown.

Not here: a command itself (its file in ``cli``).
"""
