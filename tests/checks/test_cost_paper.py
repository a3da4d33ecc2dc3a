"""The paper's cost figures, as ``benchmarks/paper_costs.py`` prints them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import paper_costs
from benchmarks.paper_costs import CLOSED_FORMS, Figure, se_cost
from cbsurgeon import operators
from cbsurgeon.operators.registry import operator_class


@pytest.fixture(scope="module")
def small() -> list[Figure]:
    return paper_costs.figures("ViT-S")


@pytest.mark.wide
def test_every_figure_of_vit_s_agrees_or_is_explained(small: list[Figure]) -> None:
    assert len(small) > 30
    assert [figure.verdict for figure in small if figure.verdict == "DIFFERS"] == []


def test_only_the_known_figures_differ(small: list[Figure]) -> None:
    """The paper's slip (the 1260 M row) and its cut-off 22.05; everything else agrees to the printed digits."""
    differing = {(figure.table, figure.quantity) for figure in small if figure.verdict.startswith("differs")}
    assert differing == {("Tables S16, S17", "flops"), ("Table 5", "params")}


def test_exact_values_behind_the_rounded_ones(small: list[Figure]) -> None:
    """22.05 M parameters; 12 sites of 197 tokens and 384 (End) or 1536 (Mid) channels; 4,608 scales, 0.0209 %."""
    exact = {(figure.table, figure.row, figure.quantity): figure.exact for figure in small}
    assert exact["Table 5", "ViT-S", "params"] == 22_050_664
    assert exact["Table S17", "ViT-S + cb at mlp, end", "flops"] == 12 * 197 * 384
    assert exact["Table S17", "ViT-S + cb at mlp, mid", "flops"] == 12 * 197 * 1536
    assert exact["Table 5", "ViT-S + CB_S", "params"] == 22_050_664 + 4_608
    share = next(figure for figure in small if figure.table == "section 3.2")
    assert share.exact == pytest.approx(0.0209, abs=5e-5)


def test_an_unexplained_difference_would_fail() -> None:
    """The script can say no: another printed value without a reason is called out."""
    assert Figure("Table 5", "ViT-S", "flops", "4.5", 4.6004, "G", 4_600_400_000).verdict == "DIFFERS"
    assert Figure("Table 5", "ViT-S", "flops", "4.6", 4.6004, "G", 4_600_400_000).verdict == "agree"
    assert Figure("Table S17", "x", "flops", "+0.9", 0.907776, "M", 907_776).ours == "+0.9"


@pytest.mark.parametrize("op", CLOSED_FORMS)
def test_closed_forms_are_those_of_the_operators(op: str) -> None:
    """Where an operator is built in, its own closed form is the one the paper's figures were checked with."""
    if op not in operators.names():
        assert CLOSED_FORMS[op](197, 384) % (197 * 384) == 0
        return
    assert operator_class(op).cost(197, 384).paper == CLOSED_FORMS[op](197, 384)


def test_se_by_hand() -> None:
    """Two layers of 384 x 24 with biases; their products, the mean and N*C for the gate."""
    assert se_cost(197, 384) == (2 * 384 * 24 + 24 + 384, 2 * 384 * 24 + 384 + 197 * 384)


def test_committed_results_agree() -> None:
    document = json.loads(Path(paper_costs.RESULTS).read_text(encoding="utf-8"))
    assert document["schema"] == paper_costs.SCHEMA
    assert {row["row"].split(" + ")[0] for row in document["figures"]} == set(paper_costs.MODELS)
    assert not [row for row in document["figures"] if row["verdict"] == "DIFFERS"]


@pytest.mark.slow
def test_every_figure_agrees_or_is_explained() -> None:
    assert [figure.row for figure in paper_costs.figures() if figure.verdict == "DIFFERS"] == []
