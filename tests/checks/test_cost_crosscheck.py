"""The audit's count compared with fvcore's: equal with our rules, and explained where fvcore's rules differ."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cbsurgeon.checks.cost import crosscheck
from cbsurgeon.checks.cost.auditing import count
from cbsurgeon.checks.cost.crosscheck import cross_check
from cbsurgeon.checks.cost.traced import TracedCount
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


@pytest.mark.thin(4)
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


def test_each_row_says_why_the_counts_differ() -> None:
    """Only the audit counts ``bmm``, only fvcore ``relu``; both count the others, with different rules."""
    own, flops = (
        {"relu": 5, "layer_norm": 50, "pool": 3, "linear": 7},
        {"layer_norm": 10, "pool": 4, "bmm": 2, "linear": 7},
    )
    found = {
        row.operator: (row.ours, row.fvcore, row.why)
        for row in crosscheck._explained(TracedCount(own, flops, 9, 0, {}))
    }
    convention = "the paper's convention only the multiplication by the weight"
    assert found == {
        "relu": (0, 5, "it contains no multiply-accumulate as the paper counts them"),
        "layer_norm": (10, 50, f"fvcore counts every operation, {convention}"),
        "pool": (4, 3, "fvcore's rule for it differs"),
        "bmm": (2, 0, "fvcore has no rule for it and counts zero"),
        "inserted operators": (
            9, 0, "the formula of the inserted operators; their nodes are counted in the rows above",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("fast", [True, False])
def test_a_layer_that_could_run_as_one_kernel_is_counted_by_its_operators(fast: bool) -> None:
    """PyTorch's fused encoder layer is one node, which no rule counts; the setting is as before afterwards."""
    pytest.importorskip("fvcore", reason="the cross-check needs the extra `cost`")
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval().requires_grad_(False)
        found = cross_check(Model(layer, (torch.randn(1, 5, 8),)))
        assert torch.backends.mha.get_fastpath_enabled() is fast
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    assert found and found.uncounted == {}
    assert found.ours == 5 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 5 * 5 * 8 + 2 * 5 * 8, "products, attention, norms"


class Sums(nn.Module):
    """Reductions, and a running sum."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(1) + x.amax(1) + x.cumsum(1)[:, 0]


SMALL = {
    # A network, the shape of its input, and the multiplications of one sample by hand.
    "batch norm": (nn.Sequential(nn.Conv1d(3, 5, 2), nn.BatchNorm1d(5)), (1, 3, 8), 7 * 5 * 3 * 2 + 7 * 5),
    "batch norm without weights": (nn.BatchNorm1d(3, affine=False), (1, 3, 8), 0),
    "group norm": (nn.GroupNorm(2, 4), (1, 4, 8), 4 * 8),
    "pooling": (nn.Sequential(nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)), (1, 3, 4, 4), 3 * 4 + 3),
    "largest": (nn.Sequential(nn.MaxPool2d(2), nn.LeakyReLU()), (1, 3, 4, 4), 3 * 4),
    "sums": (Sums(), (1, 3, 8), 0),
    "gates": (nn.Sequential(nn.Linear(8, 6), nn.GLU(-1), nn.PReLU()), (1, 3, 8), 3 * 8 * 6 + 3 * 3 + 3 * 3),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_by_hand(name: str) -> None:
    """Both counts leave nothing out, and agree in the multiplications and in all operations."""
    pytest.importorskip("fvcore", reason="the cross-check needs the extra `cost`")
    module, shape, flops = SMALL[name]
    found = cross_check(Model(module.eval(), (torch.randn(shape),)))
    assert found.uncounted == {}
    assert (found.ours, found.unexplained, found.unexplained_operations) == (flops, 0, 0)
    document = found.to_dict()
    assert (document["ok"], document["batch"], document["ours"]) == (True, 1, flops)
    assert document["difference"] == flops - found.fvcore


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
