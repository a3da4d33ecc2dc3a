"""A grid of insertions: what each cell costs, and what the user's own command makes of it.

Here belong the grid, the measurement of one cell, and the study of the runs. Trials, retries and storage are Optuna's;
the editing, counting and timing are those of the packages below.

Not here: what is measured of one variant (``checks``, ``evaluation``).
"""

from cbsurgeon.sweeps.grid import Cell, cells
from cbsurgeon.sweeps.measuring import Row, measure
from cbsurgeon.sweeps.result import SweepTable
from cbsurgeon.sweeps.runs import Result, Runs
from cbsurgeon.sweeps.study import open_study, work

__all__ = ["Cell", "Result", "Row", "Runs", "SweepTable", "cells", "measure", "open_study", "work"]
