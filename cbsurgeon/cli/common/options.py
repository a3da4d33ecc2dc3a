"""Generating flags from the fields of :mod:`cbsurgeon.options`, and the flags that every verb has."""

from __future__ import annotations

import functools
import math
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import click

from cbsurgeon.cli.common.completion import references
from cbsurgeon.cli.common.outputs import OutputPath, refuse_inputs
from cbsurgeon.cli.common.terminal import Terminal
from cbsurgeon.errors import CBSurgeonError, UsageError
from cbsurgeon.options import Flag, Loading, default_of, flags_of
from cbsurgeon.options.texts import LARGEST, BadText

Command = TypeVar("Command", bound=Callable[..., Any])


def terminal_options(function: Command) -> Command:
    """Add ``--json``, ``-q``, ``-v`` and ``--debug`` to a command; check its outputs, and pass it the ``terminal``."""

    def flag(*names: str, help: str) -> Callable[[Command], Command]:
        attribute = names[-1].removeprefix("--")

        def switch(context: click.Context, _: click.Parameter, value: bool) -> None:
            if value:
                setattr(context.find_object(Terminal), attribute, True)

        return click.option(*names, is_flag=True, is_eager=True, expose_value=False, callback=switch, help=help)

    @functools.wraps(function)
    def with_terminal(*args: Any, **kwargs: Any) -> Any:
        context = click.get_current_context()
        refuse_inputs(context)
        terminal = context.find_object(Terminal)
        try:
            return function(*args, terminal=terminal, **kwargs)
        except CBSurgeonError as error:
            error.do = _PLACEHOLDER.sub(lambda found: f"{found[1]}{_as_typed(context)}", error.do)
            raise

    decorated: Any = with_terminal
    for decorate in (
        flag("--debug", help="Show the traceback of an error."),
        flag("-v", "--verbose", help="Print progress as plain lines, and the output of libraries."),
        flag("-q", "--quiet", help="Print only the result and errors."),
        flag("--json", help="Print the result as one JSON document on stdout."),
    ):
        decorated = decorate(decorated)
    return decorated  # type: ignore[no-any-return]


def options(kind: type, name: str) -> Callable[[Command], Command]:
    """Add every flag of an options class to a command, and pass it one object of the class as keyword ``name``."""
    fields = {flag.name.removeprefix("--").replace("-", "_"): (field, flag) for field, flag in flags_of(kind).items()}

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def with_object(*args: Any, **kwargs: Any) -> Any:
            values = {}
            for parameter, (field, flag) in fields.items():
                typed = kwargs.pop(parameter)
                if typed is not None and typed != ():
                    values[field] = typed if flag.read is None else _read(flag, typed)
            return function(*args, **{name: kind(**values)}, **kwargs)

        decorated: Any = with_object
        for parameter, (field, flag) in reversed(fields.items()):
            decorated = _option(parameter, flag, kind, field)(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate


def _option(parameter: str, flag: Flag, kind: type, field: str) -> Callable[[Command], Command]:
    shown = f"{flag.help}  [default: {flag.shown}]" if flag.shown else flag.help
    if isinstance(default_of(kind, field), bool):
        names = f"{flag.name}/{flag.off}" if flag.off else flag.name
        return click.option(names, parameter, is_flag=True, default=default_of(kind, field), help=shown)
    typed: Any = click.Choice(flag.choices) if flag.choices else flag.number
    if flag.number is not None and flag.least is not None:
        whole = flag.number is int
        typed = _Whole(int(flag.least), flag.most) if whole else _Finite(min=flag.least)
    elif flag.number is float:
        typed = _Finite()
    return click.option(
        *filter(None, (flag.name, flag.alias)),
        parameter,
        type=typed,
        metavar=None if flag.choices else flag.metavar,
        multiple=flag.repeatable,
        help=shown,
    )


class _Whole(click.IntRange):
    """A whole number; ``--help`` shows its largest value only if it is smaller than the largest int64."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        with suppress(ValueError):
            if int(value) > LARGEST:
                self.fail(f"{value} is larger than {LARGEST}.", param, ctx)
        return int(super().convert(value, param, ctx))

    def _describe_range(self) -> str:
        return f"x>={self.min}" if self.max == LARGEST else super()._describe_range()


class _Finite(click.FloatRange):
    """A finite number: ``nan`` and ``inf``, which Python also reads as numbers, are refused."""

    def _describe_range(self) -> str:
        return "" if self.min is self.max is None else super()._describe_range()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return found


def _read(flag: Flag, typed: Any) -> Any:
    """Convert the text of a flag to its value.

    Raises:
        UsageError: the text is not valid for this flag (CB-CLI-06).
    """
    assert flag.read is not None
    try:
        return flag.read(typed)
    except BadText as error:
        raise UsageError(
            f"{flag.name} {error.takes}",
            code="CB-CLI-06",
            where=f"{flag.name} {' '.join(typed) if isinstance(typed, tuple) else typed}",
            why="the text could not be read",
            do=f"{flag.name} {error.example}",
        ) from None


_PLACEHOLDER = re.compile(r"(\bcbsurgeon [a-z]+ )REF\b")


def _as_typed(context: click.Context) -> str:
    """Return the model as the user typed it, with the flags that load it; ``REF`` if the command has no model."""
    arguments = [one.name for one in context.command.params if isinstance(one, click.Argument)]
    typed = context.params.get(str(arguments[0])) if arguments else None
    if not isinstance(typed, str):
        return "REF"
    return " ".join(filter(None, (shlex.quote(typed), retyped(context, Loading))))


def typed_flags(context: click.Context, kind: type) -> list[str]:
    """Return the flags of an options class that the user typed."""
    source = click.core.ParameterSource.COMMANDLINE
    names = [flag.name for flag in flags_of(kind).values()]
    return [name for name in names if context.get_parameter_source(name[2:].replace("-", "_")) is source]


def retyped(context: click.Context, kind: type) -> str:
    """Return the typed flags of an options class with their values, quoted for a shell."""
    words: list[str] = []
    for field, flag in flags_of(kind).items():
        parameter = flag.name.removeprefix("--").replace("-", "_")
        if context.get_parameter_source(parameter) is click.core.ParameterSource.COMMANDLINE:
            value = context.params[parameter]
            if isinstance(default_of(kind, field), bool):
                words.append(flag.name if value else flag.off)
            else:
                for one in value if isinstance(value, tuple) else (value,):
                    words += [flag.name, str(one)]
    return shlex.join(words)


def output_option(*, required: bool, metavar: str, help: str, replaced: bool = False) -> Callable[[Command], Command]:
    """Add ``-o`` to a command; ``replaced`` if it is a folder that is replaced as a whole."""
    return click.option(
        "-o", "--output", type=OutputPath(replaced=replaced), required=required, metavar=metavar, help=help
    )


force_option = click.option("--force", is_flag=True, help="Replace the output if it exists.")


def reference_argument(
    name: str = "reference", metavar: str = "REF", required: bool = True
) -> Callable[[Command], Command]:
    """Add an argument for a model to a command."""
    return click.argument(name, metavar=metavar, required=required, shell_complete=references)
