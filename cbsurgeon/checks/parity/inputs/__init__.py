"""The inputs of a comparison: generated ones, every token id, masks with padding, real images, the user's arrays.

Not here: tolerances and the comparison itself (``checks.parity``).
"""
