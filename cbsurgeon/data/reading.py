"""How a dataset is read, and the errors that all kinds share."""

from __future__ import annotations

from dataclasses import dataclass

from cbsurgeon.errors import InputFileError


@dataclass(frozen=True)
class Reading:
    """What a kind of dataset has to know to list its samples.

    Attributes:
        order: of classes whose names are numbers, ``alphabetic`` or ``numeric``; ``None`` where the user did not say.
        column: of a table, the one with the images.
        label: of a table or a shard, the column or the suffix with the labels.
    """

    order: str | None = None
    column: str | None = None
    label: str | None = None


def unreadable(where: str, why: str) -> InputFileError:
    """The error for a dataset that cannot be opened (``CB-DATA-09``)."""
    return InputFileError(
        "the dataset cannot be read",
        code="CB-DATA-09",
        where=where,
        why=why,
        do="check that it is complete, and that you may read it",
    )
