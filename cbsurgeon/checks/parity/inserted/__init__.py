"""Whether both models of a comparison contain the inserted operators, with the coefficients they should have.

Not here: the comparison of the outputs themselves (``checks.parity.judging``).
"""
