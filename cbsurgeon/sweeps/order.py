"""In which order the runs of a sweep start."""

from __future__ import annotations

from typing import Any

from cbsurgeon.sweeps.runs import Runs

GRID_SEED = 0
"""Optuna shuffles its own numbers with it; all workers need the same."""


def sampler(runs: Runs) -> Any:
    """Optuna's grid sampler, with the runs numbered seeds outermost.

    Optuna numbers a grid at random. In this order a sweep that is cut short has every cell for its first seeds, so that
    cells can be compared in pairs.
    """
    from optuna.samplers import GridSampler

    order = [{"cell": cell, "seed": seed} for seed in runs.seeds for cell in runs.models]

    class SeedsOutermost(GridSampler):  # type: ignore[misc, unused-ignore]
        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return order[trial.system_attrs["grid_id"]][param_name]

    return SeedsOutermost({"cell": list(runs.models), "seed": list(runs.seeds)}, seed=GRID_SEED)
