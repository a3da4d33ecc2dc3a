"""Running the user's command for one cell and seed, and reading its metric."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cbsurgeon.models.files import strict_json

METRICS, LOG = "metrics.json", "log.txt"

LARGEST_METRIC = 1e100
"""Largest absolute value of a metric: squares and sums of larger ones are not finite."""

PATIENCE = 5.0
"""Seconds that a command has to end after a signal, before it is killed."""

_STEP = 0.05
"""Seconds between checks of processes that are ending."""

_SHOWN, _LONGEST = 10, 40
"""Most names of metrics in a message, and most characters of one."""


class RunFailed(Exception):
    """Raised if a user's command failed or wrote no metric."""


def run_command(words: Sequence[str], out: Path, metric: str) -> float:
    """Run a command in a process group of its own, and return its metric.

    Args:
        words: the command.
        out: the folder of this run; created if it does not exist.
        metric: name of the number to read from ``metrics.json``.

    Raises:
        RunFailed: the command failed, or wrote no such metric.
    """
    metrics, log = out / METRICS, out / LOG
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _claimed(out.with_name(f".{out.name}.lock")) as claim:
            metrics.unlink(missing_ok=True)  # left by a failed attempt
            with log.open("wb") as output:
                code = _wait(words, output, claim)
        if code:
            raise RunFailed(f"{words[0]} ended with exit code {code}; see {log}")
        return read_metric(metrics, metric)
    except (OSError, ValueError) as error:
        file = getattr(error, "filename", None)
        where = f" ({file})" if file is not None and str(file) != words[0] else ""
        raise RunFailed(f"{words[0]} cannot be run: {getattr(error, 'strerror', None) or error}{where}") from error


def read_metric(file: Path, name: str) -> float:
    """Return a number from a file of metrics.

    Raises:
        RunFailed: there is no such number, or it is too large.
    """
    try:
        if file.exists() and not file.is_file():
            raise RunFailed(f"{file} is not a regular file")
        document = strict_json.load(file)
    except (OSError, strict_json.NotStrictJSON) as error:
        raise RunFailed(f"the command wrote no readable {file.name} into {{out}}: {error}") from error
    value = document.get(name) if isinstance(document, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RunFailed(f"{file} has no number {name!r}; it has {_held(document)}")
    if abs(value) > LARGEST_METRIC:
        raise RunFailed(f"{name} is {value:.3g} in {file}; at most {LARGEST_METRIC:g} is read")
    return float(value)


def _held(document: Any) -> str:
    if not isinstance(document, dict):
        return type(document).__name__
    names = [name[:_LONGEST] for name in list(document)[:_SHOWN]]
    return ", ".join(names) + (f" and {len(document) - _SHOWN} more" if len(document) > _SHOWN else "") or "no names"


class _Claim:
    """The lock file of a run. The command inherits the lock, so that it is held until all its processes have ended."""

    def __init__(self, handle: int | None) -> None:
        self.handle = handle

    @property
    def inherited(self) -> tuple[int, ...]:
        return () if self.handle is None else (self.handle,)

    def note(self, group: int) -> None:
        """Write the process group of the command into the file."""
        if self.handle is not None:
            text = json.dumps({"host": socket.gethostname(), "group": group}).encode()
            os.ftruncate(self.handle, 0)
            os.pwrite(self.handle, text, 0)


@contextmanager
def _claimed(file: Path) -> Iterator[_Claim]:
    """Hold the lock of a run. End the processes of an earlier attempt whose worker was killed.

    Raises:
        RunFailed: processes of an earlier attempt are running and cannot be ended.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield _Claim(None)
        return

    def locked(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks
        return True

    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not locked(handle):
            group = _group(handle)
            for number in (signal.SIGTERM, signal.SIGKILL) if group else ():
                _signal(group, number)
                end = time.monotonic() + PATIENCE
                while not (free := locked(handle)) and time.monotonic() < end:
                    time.sleep(_STEP)
                if free:
                    break
            else:
                raise RunFailed(f"processes of an earlier attempt are still running; they hold {file}")
        yield _Claim(handle)
    finally:
        os.close(handle)


def _group(handle: int) -> int:
    """Return the process group that a lock file names; 0 if it is of another machine or cannot be read."""
    try:
        found = strict_json.parse(os.pread(handle, 1000, 0))
    except strict_json.NotStrictJSON:
        return 0
    if not isinstance(found, dict) or found.get("host") != socket.gethostname():
        return 0
    group = found.get("group")
    return group if type(group) is int and group > 1 and group != os.getpgrp() else 0


def _wait(words: Sequence[str], output: Any, claim: _Claim) -> int:
    """Run a command to its end and return its exit code. On an interruption, all its processes are ended."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,  # a question would be asked where nobody answers
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=claim.inherited,
    )
    try:
        claim.note(process.pid)
        return process.wait()
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and all processes of its group, and wait until they have ended."""
    if not hasattr(os, "killpg"):  # Windows
        process.kill()
        process.wait()
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal(process.pid, number)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            process.poll()
            if not _signal(process.pid, 0):
                return
            time.sleep(_STEP)


def _signal(group: int, number: int) -> bool:
    """Send a signal to all processes of a group; return whether there are any. Signal 0 only asks."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
