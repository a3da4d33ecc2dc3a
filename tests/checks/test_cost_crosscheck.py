"""The audit's count compared with fvcore's: equal with our rules, and explained where fvcore's rules differ."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cbsurgeon.checks.cost import crosscheck
from cbsurgeon.checks.cost.auditing import count
from cbsurgeon.checks.cost.crosscheck import cross_check
from cbsurgeon.errors import CheckFailed, MissingPackage, UsageError
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from tests.checks.cost_models import TIMM, counted, with_operator

CROSS_CHECKED = [*TIMM, "torchvision", "transformers"]
N, C, DEPTH = 17, 192, 2  # deit_tiny at 64 px


@pytest.fixture
def tiny() -> Model:
    pytest.importorskip("fvcore", reason="the cross-check needs the extra `cost`")
    return counted("deit_tiny_patch16_224")[0]


def test_twelve_models_are_cross_checked() -> None:
    assert len(CROSS_CHECKED) == 12


@pytest.mark.parametrize("name", CROSS_CHECKED)
def test_graph_count_equals_fvcore(name: str) -> None:
    """Two counts that share neither graph nor code agree to the last operation, and neither leaves anything out."""
    pytest.importorskip("fvcore", reason="the cross-check needs the extra `cost`")
    model, ours = counted(name)
    found = cross_check(model)
    assert ours.uncounted == {} and found.uncounted == {}
    assert found and (found.unexplained, found.unexplained_operations) == (0, 0)
    assert found.ours == ours.total.flops > 0
    assert found.ours - found.fvcore == sum(row.ours - row.fvcore for row in found.explained)


@pytest.mark.parametrize(("op", "position"), [("cb", "end"), ("cb", "mid"), ("cb_s", "end"), ("se", "end")])
def test_fvcore_sees_the_operator_too(tiny: Model, op: str, position: str) -> None:
    edited = with_operator(tiny, op, position)
    found = cross_check(edited)
    assert found and found.ours == count(edited).total.flops > count(tiny).total.flops


def test_the_difference_is_explained_by_hand(tiny: Model) -> None:
    """fvcore has no rule for attention, and counts five operations for each value of a layer norm."""
    found = cross_check(tiny)
    rows = {row.operator: (row.ours, row.fvcore) for row in found.explained}
    norms = (2 * DEPTH + 1) * N * C
    assert rows == {
        "scaled_dot_product_attention": (DEPTH * 2 * N * N * C, 0),
        "layer_norm": (norms, 5 * norms),
    }
    assert all(row.why for row in found.explained)


def test_a_wrong_count_is_found(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """One multiply-accumulate more in the audit, and the check fails with its size."""

    def wrong(model: Model, **how: Any) -> Any:
        right = count(model, **how)
        return replace(right, total=replace(right.total, flops=right.total.flops + 1))

    monkeypatch.setattr(crosscheck, "count", wrong)
    found = cross_check(tiny)
    assert not found and found.unexplained == 1 and not found.to_dict()["ok"]
    with pytest.raises(CheckFailed) as caught:
        found.raise_if_failed()
    assert caught.value.code == "CB-COST-02" and "+1 FLOPs" in caught.value.why


def test_without_fvcore_the_package_is_reported_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = counted("deit_tiny_patch16_224")[0]
    monkeypatch.setitem(sys.modules, "fvcore.nn", None)
    with pytest.raises(MissingPackage) as caught:
        cross_check(model)
    assert caught.value.exit_code == 3 and "cbsurgeon[cost]" in caught.value.do


def test_a_model_that_cannot_be_traced_is_refused(tiny: Model) -> None:
    for side in (Model(None, program=capture(tiny).exported), Path("m.onnx")):
        with pytest.raises(UsageError) as caught:
            cross_check(side)
        assert caught.value.code == "CB-COST-01"
