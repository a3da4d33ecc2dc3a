"""From residual branches to blocks: which branches are MLPs, why others are not, and which belong to one module.

Not here: one residual branch and its steps (``graph.branches``), the numbered blocks (``graph.inspection``).
"""
