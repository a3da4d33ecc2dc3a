"""Output to the terminal: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

import click

from cbsurgeon.errors import CBSurgeonError
from cbsurgeon.escapes import json_text, visible, visible_in
from cbsurgeon.vocabulary import ON_LOAD

ERROR_SCHEMA = "cbsurgeon.error/1"
CODE_COLUMN = 78  # the column in which the code of an error ends, if the first line is short enough
BETWEEN_LINES = 10.0  # seconds between two lines about one step, without a terminal
WIDEST = 120  # wider tables are hard to read


def colored(stream: TextIO) -> bool:
    """Return whether to write colour codes to a stream (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def columns() -> int:
    """Return the width of the terminal in columns; 100 if there is no terminal."""
    return min(shutil.get_terminal_size((100, 24)).columns, WIDEST)


def aside(text: str) -> None:
    """Print text on stderr. If that fails (a full disk, a closed pipe), the text is dropped and the work continues."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


@dataclass
class Terminal:
    """The output of a verb: its result, progress and warnings.

    Attributes:
        json: print one JSON document instead of text.
        quiet: print no progress, warnings or notes.
        verbose: print progress as plain lines even without a terminal, and the libraries' own messages.
        debug: print tracebacks.
        shown: whether a result was printed; a later error then prints no second JSON document.
        wide: width of the result's tables in columns.
        command: the command line, for reports.
        kept: text about the files that remain after an interruption, printed after a semicolon.
        loaded: origin of each loaded model's weights, as text and as JSON.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    shown: bool = False
    wide: int = field(default_factory=columns)
    command: str = ""
    kept: str = "no output was written incompletely"
    loaded: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def show(self, document: Mapping[str, Any], text: Callable[[], str] | None = None) -> None:
        """Print a result: the document with ``--json``, else ``text()`` or the document as tables.

        The first lines name the origin of each loaded model's weights; in JSON it is under ``loaded``, and the command
        line of a measurement under ``command``.
        """
        self.shown = True
        if self.json:
            if document.get("schema") != ERROR_SCHEMA:
                document = self.stated(document)
            ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
            self._out(json_text(document, ascii_only=ascii_only))
            return
        for line in self.loaded:
            self._out(visible(f"weights: {line}"))
        if text is not None:
            self._out(visible(text()))
        else:
            from cbsurgeon.report import render_text

            self._out(render_text(visible_in(document), width=self.wide, color=colored(sys.stdout)))

    def stated(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return a result with the origin of the weights and, if it is a measurement, the command line.

        What a document states itself is kept.
        """
        stated = dict(document)
        if "environment" in document:
            stated.setdefault("command", self.command)
        if self.loaded and "weights" not in document:
            stated["loaded"] = list(self.loaded.values())
        return stated

    def say(self, text: str) -> None:
        """Print one line on stderr."""
        self._note("", text)

    def warn(self, text: str) -> None:
        """Print a line that starts with ``warning:`` on stderr."""
        self._note(click.style("warning:", fg="yellow") if colored(sys.stderr) else "warning:", text)

    def _note(self, label: str, text: str) -> None:
        if not self.quiet:
            aside(f"{label} {visible(text)}".lstrip())

    def fail(self, error: CBSurgeonError) -> None:
        """Print an error on stderr; with ``--json`` also as a JSON document, if none was printed yet."""
        aside(four_parts(error, colored(sys.stderr), columns() if sys.stderr.isatty() else None))
        if self.json and not self.shown:
            self.show({"schema": ERROR_SCHEMA, **error.to_dict()})

    @contextlib.contextmanager
    def working(self) -> Iterator[Callable[[str], None]]:
        """Yield a progress callback for long work, and suppress the output of libraries meanwhile."""
        with self._suppressed(), self._recording_weights():
            if self.quiet or not (self.verbose or sys.stderr.isatty()):
                yield lambda step: None
            elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
                with _spinner() as progress:
                    yield progress
            else:
                yield _lines(time.monotonic())

    @contextlib.contextmanager
    def _recording_weights(self) -> Iterator[None]:
        """Record the origin of the weights of models loaded in the ``with`` block."""

        def note(provenance: Any) -> None:
            name = "" if provenance.source == "file" else f"{provenance.reference}: "
            self.loaded[name + provenance.weights] = provenance.to_dict()

        token = ON_LOAD.set(note)
        try:
            yield
        finally:
            ON_LOAD.reset(token)

    @contextlib.contextmanager
    def _suppressed(self) -> Iterator[None]:
        """Suppress the output of libraries; with ``-v`` or ``--debug``, redirect it to stderr."""
        with contextlib.ExitStack() as stack:
            if self.verbose or self.debug:
                stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            else:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123
                stack.enter_context(contextlib.redirect_stdout(nowhere))
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                logging.disable(logging.WARNING)
                stack.callback(logging.disable, logging.NOTSET)
            yield

    def _out(self, text: str) -> None:
        click.echo(text.rstrip("\n"), color=None)


def four_parts(error: CBSurgeonError, color: bool, width: int | None) -> str:
    """Return the text of an error: what with its code, where, why, do; wrapped to ``width`` if given."""
    code = f"[{error.code}]"
    gap = " " * max(2, CODE_COLUMN - len("error: ") - len(error.what) - len(code))
    label = click.style("error:", fg="red", bold=True) if color else "error:"
    rows = [f"{label} {visible(error.what)}{gap}{code}"]
    for name, text in error.parts():
        if not text:
            continue
        lines = [visible(row) for row in text.splitlines()] or [""]
        if width is not None:
            lines = [part for line in lines for part in textwrap.wrap(line, max(width - 9, 40)) or [""]]
        rows.append(f"  {name:<6} {lines[0]}")
        rows += [f"         {line}" for line in lines[1:]]
    return "\n".join(rows)


def _lines(start: float) -> Callable[[str], None]:
    """Return a callback that prints each step as a line, and its progress from time to time."""
    shown, clock, said = "", Left(), start

    def progress(step: str) -> None:
        nonlocal shown, said
        now, left = time.monotonic(), clock.left(step)
        if _stage(step) not in ("", shown):
            shown, said = _stage(step), now
            aside(f"[{now - start:6.1f} s] {visible(shown)}")
        elif now - said >= BETWEEN_LINES:
            said = now
            aside(f"[{now - start:6.1f} s] {visible(step)}{left}")

    return progress


class Left:
    """Estimates the time left of a step from its progress so far."""

    def __init__(self) -> None:
        self._step, self._began, self._first = "", 0.0, 0.0

    def left(self, message: str, now: float | None = None) -> str:
        """Return ``, 40 s left`` for a message with ``3 of 40`` or ``40 %``; empty for other messages, and for messages
        that contain a time already."""
        now = time.monotonic() if now is None else now
        done = _share_done(message)
        stage = _COUNTS.sub("", message)
        if stage != self._step:
            self._step, self._began, self._first = stage, now, done or 0.0
        if done is None or " left" in message or done <= self._first or now <= self._began:
            return ""
        seconds = (now - self._began) * (1 - done) / (done - self._first)
        return f", {spoken(seconds)} left"


_COUNTS = re.compile(r"[\d,.]+( of [\d,.]+| ?%)?.*")


def _share_done(message: str) -> float | None:
    """Return the fraction done: 2/40 for ``cell 3 of 40: x`` (the third is running), 0.4 for ``40 %``."""
    percent = re.search(r"(\d+(?:\.\d+)?) ?%", message)
    if percent:
        return min(float(percent[1]) / 100, 1.0)
    found = re.search(r"(\d[\d,]*) of (\d[\d,]*)", message)
    if found is None:
        return None
    at, total = (int(part.replace(",", "")) for part in found.groups())
    under_way = re.search(r"(cell|run) \d", message) is not None
    return (at - under_way) / total if 0 < at <= total else None


def spoken(seconds: float) -> str:
    """Format seconds as ``40 s``, ``5 min`` or ``1.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _stage(step: str) -> str:
    """Return the part of a message that is constant during a step: ``build: layers, 40 %`` → ``build``.

    For a message that only counts (``3 of 40 groups``), return an empty string: it belongs to the previous step.
    """
    return re.sub(r"(: .*)?(, ?\d+ ?%)?$|^\d+ of .*", "", step)


@contextlib.contextmanager
def _spinner() -> Iterator[Callable[[str], None]]:
    """Show a spinner for the current step; finished steps stay visible with their durations."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(file=sys.stderr, highlight=False)
    current: list[tuple[str, float]] = []
    clock = Left()

    def finish() -> None:
        if current:
            step, began = current.pop()
            console.print(f"[green]✓[/green] {escape(visible(step))} [dim]{time.monotonic() - began:.1f} s[/dim]")

    with console.status("starting") as status:

        def progress(step: str) -> None:
            if not current or _stage(step) not in ("", current[0][0]):
                finish()
                current.append((_stage(step), time.monotonic()))
            status.update(escape(visible(step)) + clock.left(step))

        yield progress
        finish()
