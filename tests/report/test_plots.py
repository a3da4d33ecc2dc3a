"""What the plots of the HTML page draw."""

from __future__ import annotations

from typing import Any

import pytest

from cbsurgeon.report import plots
from tests.report import documents

ROUNDING = 1e-9
"""Relative: the plot and the test compute the same formula in float64 in another order."""


def test_single_pairs_are_drawn_in_per_cent_like_their_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair in which B takes a tenth of A's time is 90 % faster, not 230 %."""
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "svg", lambda figure, name: drawn.append(figure) or "")
    document = documents.benchmark()
    document["samples"] = [
        {"a": [[10.0, 10.0], [1.0, 4.0]], "b": [[1.0, 1.0], [4.0, 16.0]], "control": [[10.0, 10.0]] * 2}
    ]
    plots.latency(document)
    axes = drawn[0].axes[0]
    pairs, control = (sorted(float(x) for x, _ in points.get_offsets()) for points in axes.collections[:2])
    assert pairs == pytest.approx([-90.0, 300.0], rel=ROUNDING)
    assert control == pytest.approx([0.0, 400.0], rel=ROUNDING, abs=ROUNDING)
    interval = next(list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2)
    assert interval == pytest.approx([100 * (bound - 1) for bound in document["ci95"]], rel=ROUNDING)
    low, high = axes.get_xlim()
    assert -150 < low < -90 and high > 400
