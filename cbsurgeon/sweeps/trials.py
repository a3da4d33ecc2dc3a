"""The trials of a study as runs of a sweep: how many are left, which are repeated, and their results.

A trial is one attempt of a run. Optuna's states mean: ``COMPLETE`` the run is done, ``FAIL`` the attempt failed or was
lost, ``PRUNED`` another worker executes this run, ``WAITING`` an attempt that the next free worker starts.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

from cbsurgeon.sweeps import storage
from cbsurgeon.sweeps.command import LARGEST_METRIC
from cbsurgeon.sweeps.runs import Result, Runs

BEGUN = "begun"
"""Attribute of a trial whose heartbeat has started. A process that is killed before leaves a trial without it."""

INTERRUPTED = "interrupted"
"""Attribute of a trial that ended because the sweep was interrupted; it is repeated without being counted."""

GRID = "grid_id"
"""The number of a run in the grid, as Optuna's grid sampler stores it."""


@dataclass(frozen=True)
class RunCounts:
    """The number of all runs, and how many are finished, running, and not started (``open``)."""

    total: int
    done: int
    running: int
    open: int


def run_counts(study: Any, runs: Runs) -> RunCounts:
    """Return how many runs are finished, running, and not started."""
    total = len(runs.models) * len(runs.seeds)
    attempts = _attempts(study)
    running = {run for run, tries in attempts.items() if _any(tries, "RUNNING") and not _any(tries, "COMPLETE")}
    done = {
        run
        for run, tries in attempts.items()
        if run not in running and (_any(tries, "COMPLETE") or _failed(tries, runs))
    }
    return RunCounts(total, len(done), len(running), max(0, total - len(done | running)))


def repair(study: Any, runs: Runs, seen: dict[int, float]) -> None:
    """Mark the attempts of lost workers as failed, and queue every run again that may be repeated.

    Args:
        study: the study.
        runs: the sweep's runs.
        seen: trials without a heartbeat → the time at which this process first saw them. It is updated.
    """
    optuna = storage.import_optuna()
    optuna.storages.fail_stale_trials(study)  # a heartbeat that stopped
    fail = optuna.trial.TrialState.FAIL
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name != "RUNNING" or BEGUN in trial.user_attrs:
            seen.pop(trial.number, None)
        elif time.monotonic() - seen.setdefault(trial.number, time.monotonic()) > storage.GRACE:
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # another worker has done it
                study._storage.set_trial_state_values(trial._trial_id, state=fail)
    for tries in _attempts(study).values():
        if any(_any(tries, state) for state in ("COMPLETE", "RUNNING", "WAITING")) or _failed(tries, runs):
            continue
        last = next((one for one in reversed(tries) if one.state.name == "FAIL"), None)
        if last is not None:
            kept = {key: value for key, value in last.system_attrs.items() if key in (GRID, "search_space")}
            study.add_trial(
                optuna.create_trial(
                    state=optuna.trial.TrialState.WAITING,
                    params=last.params,
                    distributions=last.distributions,
                    system_attrs=kept,
                )
            )


def superfluous(trial: Any, runs: Runs) -> bool:
    """Return whether a run needs no further attempt: it is done, failed too often, or another trial started first.

    Two workers may choose the same run at the same moment.
    """
    trials = trial.study.get_trials(deepcopy=False)
    run = next(one for one in trials if one.number == trial.number).system_attrs.get(GRID)
    others = [one for one in trials if one.system_attrs.get(GRID) == run and one.number != trial.number]
    first = any(one.state.name == "RUNNING" and one.number < trial.number for one in others)
    return first or _any(others, "COMPLETE") or _failed(others, runs)


def results(runs: Runs) -> list[Result]:
    """Return the results of all finished runs, in the order of the grid."""
    found: list[Result] = []
    with storage.storage_errors(runs):
        attempts = _attempts(storage.open_study(runs))
        numbers = {run: number for number, run in enumerate(runs.grid)}
        for cell in runs.models:
            for seed in runs.seeds:
                tries = [one for one in attempts.get(numbers[cell, seed], []) if BEGUN in one.user_attrs]
                done = next((one for one in tries if one.state.name == "COMPLETE"), None)
                if done is not None:
                    found.append(Result(cell, seed, _value(done), len(tries)))
                elif _failed(tries, runs) and not _any(tries, "RUNNING"):
                    why = str(tries[-1].user_attrs.get("why", "its worker process was lost"))
                    found.append(Result(cell, seed, None, len(tries), why))
    return found


def _attempts(study: Any) -> dict[int, list[Any]]:
    """Return run → its trials, in the order of their start."""
    found: dict[int, list[Any]] = {}
    for trial in study.get_trials(deepcopy=False):
        if GRID in trial.system_attrs:
            found.setdefault(trial.system_attrs[GRID], []).append(trial)
    return found


def _value(done: Any) -> float:
    value = float(done.value)
    if not abs(value) <= LARGEST_METRIC:
        raise ValueError(f"trial {done.number} has the value {value}, which no run writes")
    return value


def _any(tries: list[Any], state: str) -> bool:
    return any(one.state.name == state for one in tries)


def _failed(tries: list[Any], runs: Runs) -> bool:
    """Return whether a run failed or was lost more often than it may be repeated."""
    return sum(_counts(one) for one in tries if one.state.name == "FAIL") > runs.retries


def _counts(failed: Any) -> bool:
    """Return whether a failed attempt counts: its command started, and was not ended by an interruption."""
    return BEGUN in failed.user_attrs and INTERRUPTED not in failed.user_attrs
