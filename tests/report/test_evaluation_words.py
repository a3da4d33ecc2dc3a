"""The headline of an evaluation names every metric that is worse."""

from __future__ import annotations

from typing import Any

import pytest

from cbsurgeon.report.accuracy import verdict


def compared(top1: tuple[float, float], nll: tuple[float, float]) -> dict[str, Any]:
    titles = {"top1": {"title": "top-1", "share": True}, "nll": {"title": "NLL", "share": False}}
    gaps = {
        "top1": {"value": sum(top1) / 2, "ci95": list(top1), "better": "higher"},
        "nll": {"value": sum(nll) / 2, "ci95": list(nll), "better": "lower"},
    }
    return {"findings": [], "ok": True, "sides": {"a": {}, "b": {}}, "titles": titles, "difference": gaps}


@pytest.mark.parametrize(
    ("top1", "nll", "words"),
    [
        ((-0.01, 0.01), (-0.1, 0.1), "not shown to be worse"),
        ((-0.01, 0.01), (0.03, 0.1), "top-1 not shown to be worse, NLL is worse"),
        ((-0.03, -0.01), (-0.1, 0.1), "top-1 is worse"),
        ((-0.03, -0.01), (0.03, 0.1), "top-1 and NLL are worse"),
        ((0.01, 0.03), (-0.1, -0.03), "not shown to be worse"),
    ],
)
def test_every_metric_whose_interval_is_on_the_worse_side_is_named(
    top1: tuple[float, float], nll: tuple[float, float], words: str
) -> None:
    assert verdict(compared(top1, nll))[0] == words
