"""The errors cbsurgeon raises, and the exit code each one means on the command line.

Every error reads *what, where, why, do*, carries a stable code that programs may match on, and ends with the command
that explains the code.
"""

from __future__ import annotations

import sys


class CBSurgeonError(Exception):
    """Base class of everything cbsurgeon raises on purpose.

    Args:
        what: one short sentence naming the object that is wrong.
        code: stable identifier such as ``CB-LOAD-03``.
        where: the file, module path, block or option concerned.
        why: the fact that makes it wrong, with the number and the limit where there are any.
        do: what the user can do next; a command that runs, where one exists.
    """

    exit_code = 2

    def __init__(self, what: str, *, code: str, where: str = "", why: str = "", do: str = "") -> None:
        super().__init__(what)
        self.what, self.code, self.where, self.why, self.do = what, code, where, why, do

    def __str__(self) -> str:
        rows = [f"{self.what}  [{self.code}]"]
        rows += [f"  {label:<6} {text}" for label, text in self.parts() if text]
        return "\n".join(rows)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.code, self.where, self.why, self.do)

    @property
    def more(self) -> str:
        """The command that explains the code."""
        return f"cbsurgeon explain {self.code}"

    def parts(self) -> tuple[tuple[str, str], ...]:
        """``(label, text)`` of every part after the headline; a text may be empty."""
        return (("where", self.where), ("why", self.why), ("do", self.do), ("more", self.more))

    def rename(self, old: str, new: str) -> None:
        """Replace ``old`` by ``new`` in the message: a temporary file name by the name that the user gave."""
        self.where, self.why, self.do = (part.replace(old, new) for part in (self.where, self.why, self.do))

    def to_dict(self) -> dict[str, str | int]:
        """JSON form."""
        return {
            "code": self.code,
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "do": self.do,
            "more": self.more,
            "exit_code": self.exit_code,
        }


def _rebuild(cls: type[CBSurgeonError], what: str, code: str, where: str, why: str, do: str) -> CBSurgeonError:
    return cls(what, code=code, where=where, why=why, do=do)


class UsageError(CBSurgeonError):
    """The command, an argument or a combination of options is wrong (exit 2)."""


class InputFileError(CBSurgeonError):
    """A file cannot be read, is not what it claims to be, or is not safe to read (exit 2)."""


class OutputFileError(CBSurgeonError):
    """An output cannot be written where it was asked for; nothing was written (exit 2)."""


class CaptureError(CBSurgeonError):
    """``torch.export`` could not capture the model, or what it captured is not the model (exit 2)."""


class SurgeryError(CBSurgeonError):
    """An insertion, removal or replay is refused; the model was not touched (exit 2)."""


class ExportError(CBSurgeonError):
    """An exporter, parser or builder refused the model; nothing was written (exit 2)."""


class NothingMatched(CBSurgeonError):
    """No block matches the request, or not every requested block exists (exit 1)."""

    exit_code = 1


class CheckFailed(CBSurgeonError):
    """A check ran and failed (exit 1)."""

    exit_code = 1


class MissingPackage(CBSurgeonError):
    """An optional package is absent; the message gives the extra to install (exit 3)."""

    exit_code = 3


def missing(package: str, extra: str, purpose: str) -> MissingPackage:
    """Return the error for an optional package that is not installed."""
    return MissingPackage(
        f"the package {package} is not installed",
        code="CB-MISSING-01",
        where=sys.prefix,
        why=f"{purpose} needs it",
        do=f"pip install 'cbsurgeon[{extra}]'",
    )
