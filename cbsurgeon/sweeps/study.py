"""Executing the runs of a sweep as trials of an Optuna study."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbsurgeon.errors import CheckFailed, InputFileError, missing
from cbsurgeon.models.files import strict_json
from cbsurgeon.sweeps.order import sampler
from cbsurgeon.sweeps.runs import Result, Runs
from cbsurgeon.vocabulary import Progress

HEARTBEAT, GRACE = 5, 20
"""Seconds between heartbeats of a run, and seconds without one after which the run counts as lost."""

ATTEMPTS = 6
"""Largest number of attempts to open a storage while other workers create it."""

WAIT = 0.5
"""Seconds between checks of a study whose last runs are running in other workers."""


class RunFailed(Exception):
    """Raised if a user's command failed or wrote no metric."""


def open_study(runs: Runs) -> Any:
    """Open the study of a sweep; create it if it does not exist.

    Raises:
        MissingPackage: Optuna is not installed.
        InputFileError: the storage cannot be reached (CB-SWEEP-03), or holds another sweep of this name (CB-SWEEP-04).
    """
    optuna = _optuna()
    try:
        with _quietly():
            return _with_retries(lambda: _opened(optuna, runs))
    except Exception as error:  # each database driver raises errors of its own
        if isinstance(error, InputFileError):
            raise
        raise InputFileError(
            "the storage of the sweep cannot be used",
            code="CB-SWEEP-03",
            where=_without_password(runs.storage),
            why=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            do="start the database, or leave out --storage to keep the runs in the folder",
        ) from error


def _with_retries(make: Callable[[], Any]) -> Any:
    """Call ``make``, and retry if another worker is creating the same tables, which causes a database error."""
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    for attempt in range(ATTEMPTS):
        try:
            return make()
        except (IntegrityError, ProgrammingError, OperationalError) as error:
            concurrent = any(word in str(error) for word in ("already exists", "UNIQUE constraint", "is locked"))
            if not concurrent or attempt == ATTEMPTS - 1:
                raise
            time.sleep(WAIT * (attempt + 1))
    return None


def _opened(optuna: Any, runs: Runs) -> Any:
    storage = optuna.storages.RDBStorage(
        runs.storage,
        heartbeat_interval=HEARTBEAT,
        grace_period=GRACE,
        heartbeat_stale_trial_callback=_again(runs.retries),
    )
    study = optuna.create_study(
        storage=storage,
        study_name=runs.name,
        sampler=sampler(runs),
        direction="minimize" if runs.minimize else "maximize",
        load_if_exists=True,
    )
    held = study.user_attrs.get("digest")
    if held is None:
        study.set_user_attr("digest", runs.digest)
    elif held != runs.digest:
        raise InputFileError(
            "the storage belongs to another sweep",
            code="CB-SWEEP-04",
            where=f"{_without_password(runs.storage)}, study {runs.name}",
            why="its grid, seeds, command, metric or model differ from the ones given now",
            do="give another folder with -o, or another --storage",
        )
    return study


def work(folder: Path, progress: Progress | None = None) -> None:
    """Execute runs in this process until none is left or time is up; several processes and machines can do so at once.

    Raises:
        MissingPackage: Optuna is not installed.
        InputFileError: the folder or the storage cannot be used (CB-SWEEP-02 to 04).
    """
    runs = Runs.read(folder)
    study = open_study(runs)
    optuna = _optuna()
    with _quietly():
        _work(optuna, study, runs, folder, progress)


def _work(optuna: Any, study: Any, runs: Runs, folder: Path, progress: Progress | None) -> None:
    while True:
        optuna.storages.fail_stale_trials(study)
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
        study.optimize(
            lambda trial: _run(trial, runs, folder),
            n_trials=1,
            catch=(RunFailed,),
            callbacks=[_retrying(runs.retries)],
        )


def spread(folder: Path, workers: int, progress: Progress | None = None) -> None:
    """Execute runs in several processes on this machine until none is left.

    Raises:
        CheckFailed: every worker failed (CB-SWEEP-06).
    """
    if workers == 1:
        work(folder, progress)
        return
    command = [sys.executable, "-m", "cbsurgeon.sweeps.worker", str(folder)]
    started = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(workers)]
    study, runs = open_study(Runs.read(folder)), Runs.read(folder)
    try:
        while any(one.poll() is None for one in started):
            if progress is not None:
                state = run_counts(study, runs)
                progress(f"runs: {state.done} of {state.total} done, {state.running} running")
            time.sleep(WAIT)
    except BaseException:
        for one in started:
            one.send_signal(signal.SIGINT)
        raise
    if all(one.returncode for one in started):
        assert started[0].stderr is not None
        raise CheckFailed(
            "every worker of the sweep failed",
            code="CB-SWEEP-06",
            where=str(folder),
            why=started[0].stderr.read().decode(errors="replace").strip()[-300:],
            do="use --workers 1 to see the error here",
        )


def results(runs: Runs) -> list[Result]:
    """Return the results of all finished runs, in the order of the grid."""
    trials = open_study(runs).get_trials(deepcopy=False)
    found: list[Result] = []
    for cell in runs.models:
        for seed in runs.seeds:
            mine = [one for one in trials if (one.params.get("cell"), one.params.get("seed")) == (cell, seed)]
            tries = [one for one in mine if one.state.name != "PRUNED"]
            done = next((one for one in tries if one.state.name == "COMPLETE"), None)
            if done is not None:
                found.append(Result(cell, seed, float(done.value), len(tries)))
            elif tries and all(one.state.is_finished() for one in tries):
                why = str(tries[-1].user_attrs.get("why", "its worker process was lost"))
                found.append(Result(cell, seed, None, len(tries), why))
    return found


@dataclass(frozen=True)
class RunCounts:
    """The number of all runs, and how many are finished, running, and not started (``open``)."""

    total: int
    done: int
    running: int
    open: int


def run_counts(study: Any, runs: Runs) -> RunCounts:
    """Return how many runs are finished, running, and not started."""
    trials = study.get_trials(deepcopy=False)
    total = len(runs.models) * len(runs.seeds)
    finished, running, waiting = set(), set(), 0
    for trial in trials:
        number = trial.system_attrs.get("grid_id")
        if trial.state.name == "RUNNING":
            running.add(number)
        elif trial.state.name == "WAITING":
            waiting += 1
        elif trial.state.name != "PRUNED":  # pruned: another worker executes this run
            finished.add(number)
    started = finished | running
    done = len(finished - running)
    return RunCounts(total, done, len(running), max(0, total - len(started)) + waiting)


def _run(trial: Any, runs: Runs, folder: Path) -> float:
    """Run the user's command for one cell and seed, and read its metric.

    Raises:
        RunFailed: the command failed, or wrote no such metric.
    """
    cell, seed = (
        trial.suggest_categorical("cell", list(runs.models)),
        trial.suggest_categorical("seed", list(runs.seeds)),
    )
    if _started_elsewhere(trial):
        raise _optuna().TrialPruned("another worker started this run at the same moment")
    out = folder / "runs" / cell / f"seed-{seed}"
    out.mkdir(parents=True, exist_ok=True)
    metrics = out / "metrics.json"
    metrics.unlink(missing_ok=True)  # left by a failed attempt
    words = runs.words(folder, cell, seed, out)
    try:
        with (out / "log.txt").open("wb") as log:
            done = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            raise RunFailed(f"{words[0]} ended with exit code {done.returncode}; see {out / 'log.txt'}")
        return _metric(metrics, runs.metric)
    except OSError as error:
        raise RunFailed(f"{words[0]} cannot be run: {error.strerror or error}") from error
    except RunFailed as failure:
        trial.set_user_attr("why", str(failure))
        raise


def _started_elsewhere(trial: Any) -> bool:
    """Return whether another trial of the same cell and seed started first or is done; two workers may pick one run."""
    trials = trial.study.get_trials(deepcopy=False)
    run = next(one for one in trials if one.number == trial.number).system_attrs.get("grid_id")
    return any(
        one.system_attrs.get("grid_id") == run
        and (one.state.name == "COMPLETE" or (one.state.name == "RUNNING" and one.number < trial.number))
        for one in trials
        if one.number != trial.number
    )


def _metric(file: Path, name: str) -> float:
    try:
        document = strict_json.load(file)
    except (OSError, strict_json.NotStrictJSON) as error:
        raise RunFailed(f"the command wrote no readable {file.name} into {{out}}: {error}") from error
    value = document.get(name) if isinstance(document, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        held = ", ".join(document) if isinstance(document, dict) else type(document).__name__
        raise RunFailed(f"{file} has no number {name!r}; it has {held}")
    return float(value)


def _again(retries: int) -> Any:
    return _optuna().storages.RetryHeartbeatStaleTrialCallback(max_retry=retries)


def _retrying(retries: int) -> Any:
    """Return a callback that queues a failed run again, using Optuna's own callback for lost runs."""
    again = _again(retries)

    def callback(study: Any, trial: Any) -> None:
        if trial.state.name == "FAIL":
            again(study, trial)

    return callback


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress Optuna's warning that heartbeats are experimental, and its log line per run."""
    optuna = _optuna()
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise missing("optuna", "sweep", "running a sweep") from error
    return optuna


def _without_password(url: str) -> str:
    """Return a database URL without its password."""
    scheme, separator, rest = url.partition("://")
    account, at, host = rest.rpartition("@")
    return f"{scheme}{separator}{account.partition(':')[0]}{at}{host}" if at else url
