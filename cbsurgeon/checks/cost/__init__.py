"""Cost: parameters, FLOPs and bytes of a model and of the operators inserted in it."""
