"""The module editor: operators on a ``torch.nn.Module``, for training.

An operator is a child of an existing layer and runs in a hook of that layer. ``attachment`` inserts and removes;
the other files keep an inserted operator in effect through wrapping, copying, compiling and scripting.

Not here: choosing sites (``surgery.planning``), operators in an exported program (``surgery.program``).
"""
