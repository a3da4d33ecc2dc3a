"""Markers for parameters of tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


def thinned(values: Sequence[Any], keep: int, start: int = 0) -> list[Any]:
    """Keep every ``keep``-th parameter in the default suite, and mark the others ``wide``.

    Args:
        values: parameters; a tuple is the parameters of one test.
        keep: distance of the parameters that stay.
        start: index of the first one that stays.
    """
    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return [
        pytest.param(*row, marks=() if place % keep == start else pytest.mark.wide) for place, row in enumerate(rows)
    ]
