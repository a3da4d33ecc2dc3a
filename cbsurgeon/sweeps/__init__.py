"""``sweep``: measuring a grid of insertions, and running the user's command for each cell of the grid.

Belongs here: the grid, the measurement of one cell, and the runs as an Optuna study. Optuna provides trials, retries
and storage. Not here: the measurements themselves (``checks``, ``evaluation``), editing (``surgery``).
"""

from cbsurgeon.sweeps.grid import Cell, cells
from cbsurgeon.sweeps.measuring import Row, measure
from cbsurgeon.sweeps.result import SweepTable
from cbsurgeon.sweeps.runs import Result, Runs
from cbsurgeon.sweeps.storage import open_study
from cbsurgeon.sweeps.study import work

__all__ = ["Cell", "Result", "Row", "Runs", "SweepTable", "cells", "measure", "open_study", "work"]
