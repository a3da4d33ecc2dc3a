"""Translating any exception to an error with four parts: what, where, why, do."""

from __future__ import annotations

import errno
import re
import traceback

import click

from cbsurgeon.errors import CBSurgeonError, MissingPackage, OutputFileError, UsageError, did_you_mean, out_of_memory

_REFUSED_CHOICE = re.compile(r"'(.*)' is not one of ", re.DOTALL)
"""Matches click's message about a value that is not one of the choices."""

_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""Error numbers of a failed write. Errors about a file contain its name, so one without a name is about stdout."""

OWN_FAULT = 70  # EX_SOFTWARE of sysexits.h


class InternalError(CBSurgeonError):
    """A fault in cbsurgeon itself."""

    exit_code = OWN_FAULT


def exit_code_of(error: BaseException) -> int:
    """Return the exit code for an exception."""
    return explain(error).exit_code


def explain(error: BaseException) -> CBSurgeonError:
    """Translate any exception to a ``CBSurgeonError``; one of cbsurgeon's own errors is returned unchanged."""
    if isinstance(error, CBSurgeonError):
        return error
    if isinstance(error, click.ClickException):
        return _wrong_command(error)
    if isinstance(error, OSError):
        return _operating_system(error)
    if isinstance(error, ImportError) and not str(error.name or "").startswith("cbsurgeon"):
        return MissingPackage(
            "a library cannot be loaded",
            code="CB-MISSING-04",
            where=_frame(error),
            why=_one_line(str(error)),
            do="check the installation: pip check; and the memory limit: ulimit -v",
        )
    if out_of_memory(error):
        return UsageError(
            "out of memory",
            code="CB-CLI-05",
            where=_frame(error),
            why=_one_line(str(error)) or "memory could not be allocated",
            do="use a smaller --input or batch, or a machine with more memory",
        )
    return InternalError(
        "this is a fault in cbsurgeon",
        code="CB-INTERNAL-01",
        where=_frame(error),
        why=f"{type(error).__name__}: {_one_line(str(error))}",
        do="rerun with --debug and report the traceback",
    )


def _frame(error: BaseException) -> str:
    """Return the innermost line of this package in a traceback, such as ``cbsurgeon.data.loading, line 12``."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] == "cbsurgeon":
            found = f"{module}, line {line}"
    return found


def _wrong_command(error: click.ClickException) -> UsageError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "cbsurgeon"
    hint = f"see `{command} --help`"
    if isinstance(error, click.NoSuchOption):
        known = [name for name in _option_names(context) if name.startswith("--")]
        near = did_you_mean(error.option_name, known)
        return UsageError(
            f"there is no option {error.option_name}",
            code="CB-CLI-01",
            where=command,
            do=f"{near} {hint}".strip(),
        )
    if isinstance(error, click.BadParameter):
        return _wrong_value(error, command, hint)
    return UsageError(_one_line(error.format_message()).rstrip("."), code="CB-CLI-03", where=command, do=hint)


def _wrong_value(error: click.BadParameter, command: str, hint: str) -> UsageError:
    name = _parameter_name(error)
    if isinstance(error, click.MissingParameter):
        return UsageError(f"{name} is missing", code="CB-CLI-02", where=command, do=hint)
    given = _REFUSED_CHOICE.match(error.message)
    if given is not None and error.param is not None and isinstance(error.param.type, click.Choice):
        values = [str(value) for value in error.param.type.choices]
        return UsageError(
            f"{name} does not take {given[1]!r}",
            code="CB-CLI-02",
            where=command,
            why=f"the values are {', '.join(values)}",
            do=did_you_mean(given[1], values, f"{name} ") or f"{name} {values[0]}",
        )
    return UsageError(
        f"the value of {name} is not valid", code="CB-CLI-02", where=command, why=_one_line(error.message), do=hint
    )


def _option_names(context: click.Context | None) -> list[str]:
    if context is None:
        return []
    parameters = context.command.get_params(context)
    return [name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)]


def _parameter_name(error: click.BadParameter) -> str:
    parameter = error.param
    if parameter is None:
        return str(error.param_hint or "an argument")
    if isinstance(parameter, click.Argument):
        return parameter.make_metavar(error.ctx) if error.ctx else str(parameter.name).upper()
    return max(parameter.opts, key=len)


def _operating_system(error: OSError) -> OutputFileError:
    return OutputFileError(
        "the operating system refused to open, read or write a file",
        code="CB-CLI-04",
        where=str(error.filename or ("standard output" if error.errno in _WRITING else _frame(error))),
        why=error.strerror or str(error),
        do="check the path, its permissions and the free space",
    )


def _one_line(text: str, limit: int = 300) -> str:
    return re.sub(r"\s+", " ", text).strip()[:limit]
