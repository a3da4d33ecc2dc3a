"""The order in which the runs of a sweep start."""

from __future__ import annotations

from typing import Any

from cbsurgeon.sweeps.runs import Runs

GRID_SEED = 0
"""Seed of Optuna's own numbering; all workers must use the same."""


def sampler(runs: Runs) -> Any:
    """Return an Optuna grid sampler that runs all cells with the first seed, then all with the second, and so on.

    Optuna's own order is random. With this order, a sweep that is stopped early has all cells for its first seeds, so
    that cells can be compared in pairs.
    """
    from optuna.samplers import GridSampler

    order = [{"cell": cell, "seed": seed} for cell, seed in runs.grid]

    class SeedsOutermost(GridSampler):  # type: ignore[misc, unused-ignore]
        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return order[trial.system_attrs["grid_id"]][param_name]

    return SeedsOutermost({"cell": list(runs.models), "seed": list(runs.seeds)}, seed=GRID_SEED)
