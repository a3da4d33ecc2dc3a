"""Whatever went wrong, as an error of ours: what, where, why, what to do."""

from __future__ import annotations

import re

import click

from cbsurgeon.errors import CBSurgeonError, OutputFileError, UsageError, did_you_mean

OWN_FAULT = 70  # EX_SOFTWARE of sysexits.h: not one of the four answers a caller can act on


class InternalError(CBSurgeonError):
    """A fault in cbsurgeon itself."""

    exit_code = OWN_FAULT


def exit_code_of(error: BaseException) -> int:
    """The exit code that an error means."""
    return explain(error).exit_code


def explain(error: BaseException) -> CBSurgeonError:
    """An error of ours for any exception: ours unchanged, click's and the operating system's translated."""
    if isinstance(error, CBSurgeonError):
        return error
    if isinstance(error, click.ClickException):
        return _wrong_command(error)
    if isinstance(error, OSError):
        return _operating_system(error)
    if isinstance(error, MemoryError):
        return UsageError(
            "out of memory",
            code="CB-CLI-05",
            why=str(error) or "an allocation was refused",
            do="use a smaller --input or batch, or a machine with more memory",
        )
    return InternalError(
        "cbsurgeon met a case it does not know",
        code="CB-INTERNAL-01",
        why=f"{type(error).__name__}: {_one_line(str(error))}",
        do="rerun with --debug and report the traceback",
    )


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
        name = _parameter_name(error)
        absent = isinstance(error, click.MissingParameter)
        return UsageError(
            f"{name} is missing" if absent else f"{name} cannot be that",
            code="CB-CLI-02",
            where=command,
            why="" if absent else _one_line(error.message),
            do=hint,
        )
    return UsageError(_one_line(error.format_message()).rstrip("."), code="CB-CLI-03", where=command, do=hint)


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
        "the operating system refused a file",
        code="CB-CLI-04",
        where=str(error.filename or ""),
        why=error.strerror or str(error),
        do="check the path, its permissions and the free space",
    )


def _one_line(text: str, limit: int = 300) -> str:
    return re.sub(r"\s+", " ", text).strip()[:limit]
