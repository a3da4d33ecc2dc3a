"""The error raised by all kinds of datasets."""

from __future__ import annotations

from cbsurgeon.errors import InputFileError


def unreadable(where: str, why: str, do: str = "") -> InputFileError:
    """Return the error for a dataset that cannot be opened (``CB-DATA-09``)."""
    return InputFileError(
        "the dataset cannot be read",
        code="CB-DATA-09",
        where=where,
        why=why,
        do=do or "check that it is complete and that you have permission to read it",
    )
