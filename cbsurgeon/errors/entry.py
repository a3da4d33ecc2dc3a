"""The explanation of one error code."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """The explanation of one code, as written in a file of ``codes/``.

    Attributes:
        title: one line without a full stop, for the list of all codes.
        means: what happened, in one to three sentences.
        causes: usual causes, most frequent first.
        do: what to try, in this order.
    """

    title: str
    means: str
    causes: tuple[str, ...]
    do: tuple[str, ...]
