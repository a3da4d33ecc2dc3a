"""Cost: parameters, FLOPs and bytes of a model and of the operators inserted in it.

Belongs here: counting rules for graphs, modules and files, and the roofline. Not here: the closed form of an operator,
which the operator states itself (``operators``).
"""
