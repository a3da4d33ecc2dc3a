"""The Optuna study of a sweep: opening its storage, and reporting errors of the database."""

from __future__ import annotations

import shlex
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cbsurgeon.errors import CBSurgeonError, InputFileError, missing
from cbsurgeon.sweeps.order import sampler
from cbsurgeon.sweeps.runs import Runs

HEARTBEAT, GRACE = 5, 20
"""Seconds between heartbeats of a run, and seconds without one after which the run counts as lost."""

ATTEMPTS = 6
"""Largest number of attempts to open a storage while other workers create it."""

WAIT = 0.5
"""Seconds before the second attempt to open a storage."""

FILE = "runs.db"
"""The SQLite file in a sweep's folder that is used if no other storage is given."""


def file_storage(folder: Path) -> str:
    """Return the URL of the SQLite file in a sweep's folder."""
    return f"sqlite:///{(folder / FILE).absolute()}"


def open_study(runs: Runs) -> Any:
    """Open the study of a sweep; create it if it does not exist.

    Raises:
        MissingPackage: Optuna is not installed.
        InputFileError: the storage cannot be reached (CB-SWEEP-03), or holds another sweep of this name (CB-SWEEP-04).
    """
    optuna = import_optuna()
    with storage_errors(runs), quietly():
        return _with_retries(lambda: _opened(optuna, runs))


@contextmanager
def storage_errors(runs: Runs) -> Iterator[None]:
    """Raise errors of Optuna and of the database as CB-SWEEP-03.

    Raises:
        InputFileError: the storage cannot be reached, or is damaged (CB-SWEEP-03).
    """
    try:
        yield
    except CBSurgeonError:
        raise
    except Exception as error:
        # Each database driver raises errors of its own, and Optuna raises any error for a row that is damaged.
        raise _unusable(runs.storage, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def _unusable(storage: str, why: str) -> InputFileError:
    name = storage.removeprefix("sqlite:///")
    if name != storage and Path(name).name == FILE and Path(name).exists():
        why += "; if the file is damaged, move it away, and all runs start again"
        do = f"mv {shlex.quote(name)} {shlex.quote(name + '.damaged')}"
    else:
        do = "start the database, or leave out --storage to keep the runs in the folder"
    return InputFileError(
        "the storage of the sweep cannot be used", code="CB-SWEEP-03", where=without_password(storage), why=why, do=do
    )


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
    _refuse_memory(runs.storage)
    storage = optuna.storages.RDBStorage(runs.storage, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
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
            where=f"{without_password(runs.storage)}, study {runs.name}",
            why="its grid, seeds, command, metric or model differ from the ones given now",
            do="give another folder with -o, or another --storage",
        )
    return study


def _refuse_memory(storage: str) -> None:
    """Refuse a SQLite database in memory: every connection would see a database of its own."""
    from sqlalchemy.engine import make_url

    url = make_url(storage)
    name = url.database or ""
    if url.get_backend_name() == "sqlite" and (name in ("", ":memory:") or "memory" in str(url.query.get("mode", ""))):
        raise _unusable(storage, "the database is in memory, so that finished runs would be lost")


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress Optuna's warning that heartbeats are experimental, and its log line per run."""
    optuna = import_optuna()
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def import_optuna() -> Any:
    """Import the optuna package.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise missing("optuna", "sweep", "running a sweep") from error
    return optuna


def without_password(url: str) -> str:
    """Return a database URL without its password."""
    scheme, separator, rest = url.partition("://")
    account, at, host = rest.rpartition("@")
    return f"{scheme}{separator}{account.partition(':')[0]}{at}{host}" if at else url
