"""What all operators share: the terms of their cost, padding masks, folded tokens, notes in state dicts, weight decay.

Not here: an operator's own formula, cost and folding (its file in ``operators``).
"""
