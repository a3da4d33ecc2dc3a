"""Statistics of attention maps: the quantities of one map, reduced to numbers per image, collected over all images.

Belongs here: a new quantity. Not here: how maps are obtained (``analysis.tapping``), and the comparison of two models
(``analysis.comparison``).
"""
