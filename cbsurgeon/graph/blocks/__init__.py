"""From residual branches to blocks: which branches are MLPs, why the others are not, and what belongs to one module.

Not here: one residual branch and its steps (``graph.branches``), the numbered answer (``graph.inspection``).
"""
