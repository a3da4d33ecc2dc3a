"""Cost: parameters, FLOPs and bytes of a model and of the operators inserted into it.

Belongs here: the counting rules for graphs, modules and files, and the roofline model. Not here: the cost formula of an
inserted operator, which the operator itself defines (``operators``).
"""
