"""The entry point of the command line: run a verb and return its exit code."""

from __future__ import annotations

import gc
import io
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from cbsurgeon.cli.common.failure import exit_code_of, explain
from cbsurgeon.cli.common.terminal import Terminal, aside
from cbsurgeon.cli.group import cli
from cbsurgeon.vocabulary import COMPLETION_VARIABLE

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
CLOSED_PIPE = 141  # 128 + SIGPIPE, as shells report it

NEW_OBJECTS = 100_000
"""Objects created since the last run of Python's garbage collector that start the next run. By default there are 700,
so that the collector runs thousands of times while torch and timm are imported and a model is captured, and finds
nothing: about a tenth of the time of a short command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: success. 1: a check failed, or nothing matched. 2: the command or the input file is wrong. 3: an
    optional package is missing. 70: a fault in cbsurgeon itself. 130: interrupted. 143: ended by SIGTERM.
    """
    _prepare_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = shlex.join(["cbsurgeon", *words])
    if COMPLETION_VARIABLE in os.environ:
        from cbsurgeon.cli.common import completion

        completion.register()
    terminal = Terminal(json="--json" in words, debug="--debug" in words, command=command)
    try:
        with ended_by_signals(), rare_collection():
            code = cli.main(args=words, prog_name="cbsurgeon", standalone_mode=False, obj=terminal)
        if sys.stdout is not None:  # it is None if the caller closed it
            sys.stdout.flush()
        return int(code or 0)
    except Ended as error:
        terminal.say(f"ended by {error.name}; {_kept(error, terminal)}")
        return 128 + error.number
    except (KeyboardInterrupt, click.Abort) as error:
        terminal.say(f"interrupted; {_kept(error, terminal)}")
        return INTERRUPTED
    except BrokenPipeError:
        _close_stdout()
        return CLOSED_PIPE
    except Exception as error:
        if terminal.debug:
            aside(traceback.format_exc().rstrip())
        try:
            terminal.fail(explain(error))
        except OSError:  # stdout cannot be written (a full disk, a closed pipe), so there is no JSON document
            _close_stdout()
        return exit_code_of(error)


def _kept(error: BaseException, terminal: Terminal) -> str:
    """Return what remains after an interruption: the notes of the exception, or else the terminal's text.

    click replaces KeyboardInterrupt by its own exception, whose cause is the original one.
    """
    notes = (note for one in (error, error.__cause__) for note in getattr(one, "__notes__", ()))
    return "; ".join(notes) or terminal.kept


class Ended(BaseException):
    """Raised for a signal that asks the program to end, so that every writer removes its incomplete files."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number, self.name = number, signal.Signals(number).name


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise :class:`Ended` on SIGTERM and SIGHUP, which would otherwise end the process at once."""
    kinds = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    taken = [kind for kind in kinds if signal.getsignal(kind) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        taken = []  # only the main thread may set handlers

    def end(number: int, _: object) -> None:
        for kind in taken:
            signal.signal(kind, signal.SIG_IGN)  # a second signal must not interrupt the clean-up
        raise Ended(number)

    for kind in taken:
        signal.signal(kind, end)
    try:
        yield
    finally:
        for kind in taken:
            signal.signal(kind, signal.SIG_DFL)


@contextmanager
def rare_collection() -> Iterator[None]:
    """Run Python's garbage collector only once per :data:`NEW_OBJECTS` new objects."""
    before = gc.get_threshold()
    gc.set_threshold(NEW_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _prepare_streams() -> None:
    """Open streams that the caller closed, and print characters that a stream's encoding lacks as escapes.

    A file that is opened later would otherwise get the number of a closed stream, and receive what libraries print.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _close_stdout() -> None:
    """Redirect stdout to the null device, so that the flush at exit does not fail on a closed pipe or a full disk."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
