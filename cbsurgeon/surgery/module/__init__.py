"""The module editor: operators on a ``torch.nn.Module``, for training.

An operator is a child module of an existing layer and runs in a hook of that layer. ``attachment`` inserts and removes
operators; the other files keep them in effect when a model is wrapped, copied, compiled or scripted.

Not here: choosing sites (``surgery.planning``), operators in an exported program (``surgery.program``).
"""
