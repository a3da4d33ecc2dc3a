"""Executing the runs of a sweep as trials of an Optuna study."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cbsurgeon.errors import CheckFailed
from cbsurgeon.sweeps.command import PATIENCE, RunFailed, run_command
from cbsurgeon.sweeps.runs import Runs
from cbsurgeon.sweeps.storage import import_optuna, open_study, quietly, storage_errors
from cbsurgeon.sweeps.trials import BEGUN, INTERRUPTED, repair, run_counts, superfluous
from cbsurgeon.vocabulary import Progress

WAIT = 0.5
"""Seconds between checks of a study whose last runs are running in other workers."""


def work(folder: Path, progress: Progress | None = None) -> None:
    """Execute runs in this process until none is left or time is up; several processes and machines can do so at once.

    Raises:
        MissingPackage: Optuna is not installed.
        InputFileError: the folder or the storage cannot be used (CB-SWEEP-02 to 04).
    """
    runs = Runs.read(folder)
    study = open_study(runs)
    with storage_errors(runs), quietly():
        _work(study, runs, folder, progress)


def _work(study: Any, runs: Runs, folder: Path, progress: Progress | None) -> None:
    seen: dict[int, float] = {}
    while True:
        repair(study, runs, seen)
        state = run_counts(study, runs)
        if not state.open:
            if not state.running:
                return
            time.sleep(WAIT)  # the last runs are running elsewhere; a lost one will be queued again
            continue
        if runs.until is not None and time.time() >= runs.until:
            return
        if progress is not None:
            progress(f"run {state.done + 1} of {state.total}")
        study.optimize(lambda trial: _run(trial, runs, folder), n_trials=1, catch=(RunFailed,))


def _run(trial: Any, runs: Runs, folder: Path) -> float:
    """Run the user's command for one cell and seed, and return its metric.

    Raises:
        RunFailed: the command failed, or wrote no such metric.
    """
    trial.storage.record_heartbeat(trial._trial_id)
    trial.set_user_attr(BEGUN, True)
    cell, seed = (
        trial.suggest_categorical("cell", list(runs.models)),
        trial.suggest_categorical("seed", list(runs.seeds)),
    )
    if superfluous(trial, runs):
        raise import_optuna().TrialPruned("another worker started this run at the same moment")
    out = folder / "runs" / cell / f"seed-{seed}"
    try:
        return run_command(runs.words(folder, cell, seed, out), out, runs.metric)
    except RunFailed as failure:
        trial.set_user_attr("why", str(failure))
        raise
    except Exception:
        raise
    except BaseException:  # Ctrl-C, or a signal that ends the program
        trial.set_user_attr(INTERRUPTED, True)
        raise


def spread(folder: Path, workers: int, progress: Progress | None = None) -> None:
    """Execute runs in several processes on this machine until none is left.

    Raises:
        InputFileError: the folder or the storage cannot be used (CB-SWEEP-02 to 04).
        CheckFailed: every worker failed (CB-SWEEP-06).
    """
    if workers == 1:
        work(folder, progress)
        return
    runs = Runs.read(folder)
    study = open_study(runs)
    command = [sys.executable, "-m", "cbsurgeon.sweeps.worker", str(folder)]
    with tempfile.TemporaryFile() as said:
        started = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said) for _ in range(workers)]
        try:
            with storage_errors(runs):
                while any(one.poll() is None for one in started):
                    if progress is not None:
                        state = run_counts(study, runs)
                        progress(f"runs: {state.done} of {state.total} done, {state.running} running")
                    time.sleep(WAIT)
        except BaseException:
            _end(started)
            raise
        if all(one.returncode for one in started):
            said.seek(0)
            raise CheckFailed(
                "every worker of the sweep failed",
                code="CB-SWEEP-06",
                where=str(folder),
                why=said.read().decode(errors="replace").strip()[-300:],
                do="use --workers 1 to see the error here",
            )


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until workers have ended, interrupt those that do not end, and kill those that still do not.

    They are not interrupted at once: after Ctrl-C, the terminal has sent them a signal already, and a second one would
    interrupt their clean-up.
    """
    for seconds, then in ((1.0, signal.SIGINT), (2 * PATIENCE, getattr(signal, "SIGKILL", signal.SIGTERM))):
        end = time.monotonic() + seconds
        for one in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.wait(max(0.0, end - time.monotonic()))
        for one in workers:
            if one.poll() is None:
                one.send_signal(then)
