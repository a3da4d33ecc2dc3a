"""The start of the command line: run a verb, and turn whatever ends it into an exit code."""

from __future__ import annotations

import io
import os
import shlex
import sys
import traceback
from collections.abc import Sequence

import click

from cbsurgeon.cli.common.failure import exit_code_of, explain
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.cli.group import cli

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
CLOSED_PIPE = 141  # 128 + SIGPIPE, likewise


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done and true. 1: a check failed, or nothing matched. 2: the command or the input file is wrong. 3: an
    optional package is missing. 70: a fault in cbsurgeon itself. 130: interrupted.
    """
    _prepare_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = shlex.join(["cbsurgeon", *words])
    terminal = Terminal(json="--json" in words, debug="--debug" in words, command=command)
    try:
        code = cli.main(args=words, prog_name="cbsurgeon", standalone_mode=False, obj=terminal)
        if sys.stdout is not None:  # as it is when the caller closed it
            sys.stdout.flush()
        return int(code or 0)
    except (KeyboardInterrupt, click.Abort):
        terminal.say("interrupted; nothing was left half-written")
        return INTERRUPTED
    except BrokenPipeError:
        _close_stdout()
        return CLOSED_PIPE
    except Exception as error:
        if terminal.debug:
            traceback.print_exc(file=sys.stderr)
        terminal.fail(explain(error))
        return exit_code_of(error)


def _prepare_streams() -> None:
    """Let characters that a stream's encoding lacks come out as escapes, instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _close_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's own flush at exit does not complain about the pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
