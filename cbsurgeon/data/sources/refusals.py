"""What all kinds of datasets refuse in the same way."""

from __future__ import annotations

from typing import Any

from cbsurgeon.errors import InputFileError

_LARGEST_LABEL = 1 << 62


def unreadable(where: str, why: str, do: str = "") -> InputFileError:
    """Return the error for a dataset that cannot be opened (``CB-DATA-09``)."""
    return InputFileError(
        "the dataset cannot be read",
        code="CB-DATA-09",
        where=where,
        why=why,
        do=do or "check that it is complete and that you have permission to read it",
    )


def class_index(value: Any, name: str, why: str = "") -> int:
    """Return the class index that a sample's label states.

    Args:
        value: the label, as a number or text.
        name: the sample.
        why: the reason in the error; by default that the value is not a class index.

    Raises:
        InputFileError: it is not a class index (``CB-DATA-09``).
    """
    try:
        found = int(value)
    except (TypeError, ValueError) as error:
        raise unreadable(name, why or f"its label is {str(value)[:80]!r}, which is not a class index") from error
    if isinstance(value, float) and found != value:
        raise unreadable(name, why or f"its label is {value!r}, which is not a class index")
    if abs(found) > _LARGEST_LABEL:
        raise unreadable(name, "its label is too large for a class index")
    return found
