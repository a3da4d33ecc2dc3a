"""What operators say of themselves: bytes and arithmetic derived by hand, their forms, and what folds."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon
from cbsurgeon import operators
from cbsurgeon.checks.cost.auditing import audit
from cbsurgeon.checks.cost.nodes import Sizes, batch_symbols, node_costs
from cbsurgeon.checks.cost.roofline import roofline
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from cbsurgeon.operators import build, names
from cbsurgeon.operators.common.cost import FORMS
from cbsurgeon.operators.registry import classes, having, operator_class
from tests.checks.cost_models import counted, with_operator

B, N, C = 3, 17, 48
H = C // 16

# Per sample and call, written out from the formulas: reads and writes of every step, and every addition and product.
BY_HAND: dict[str, dict[str, Any]] = {
    # mean: read x, write mean; half x: read, write; half mean: read, write; add: read both, write.
    "cb": {
        "line": (N * C + C) + 2 * N * C + 2 * C + (2 * N * C + C),
        "kernel": (N * C + C) + (N * C + C + N * C),
        "folded": (N * C + C) + C,
        "fused": C + C,
        "shared": 0,
        "flops": (N * C + C) + N * C + C + N * C,
        "kernels": (4, 2, 1, 0),
    },
    # The scale is C values, read once whatever the batch.
    "cb_s": {
        "line": (N * C + C) + (C + C) + (2 * N * C + C),
        "kernel": (N * C + C) + (N * C + C + N * C),
        "folded": (N * C + C) + C,
        "fused": C + C,
        "shared": C,
        "flops": (N * C + C) + C + N * C,
        "kernels": (3, 2, 1, 0),
    },
    # Class token plus one: read, write; product: read x and gate, write.
    "cb_gate": {
        "line": 2 * C + (2 * N * C + C),
        "kernel": 2 * N * C + C,
        "folded": C,
        "fused": C,
        "shared": 0,
        "flops": C + N * C,
        "kernels": (2, 1, 0, 0),
    },
    # x times class token; CB; the sum of both.
    "cb_hybrid": {
        "line": (2 * N * C + C) + (5 * N * C + 4 * C) + 3 * N * C,
        "kernel": (N * C + C) + (N * C + C + C + N * C),
        "folded": (N * C + C) + C + C,
        "fused": C + C + C,
        "shared": 0,
        "flops": N * C + (3 * N * C + 2 * C) + N * C,
        "kernels": (6, 2, 1, 0),
    },
    # mean; mean - x; times strength (one value); plus x.
    "cb_retrofit": {
        "line": (N * C + C) + (2 * N * C + C) + 2 * N * C + 3 * N * C,
        "kernel": (N * C + C) + (N * C + C + N * C),
        "folded": (N * C + C) + C,
        "fused": C + C,
        "shared": 1,
        "flops": (N * C + C) + N * C + N * C + N * C,
        "kernels": (4, 2, 1, 0),
    },
    # mean; C -> H with its weights; relu; H -> C with its weights; sigmoid; gate.
    "se": {
        "line": (N * C + C) + (C + H) + 2 * H + (H + C) + 2 * C + (2 * N * C + C),
        "kernel": (N * C + C) + (C + H) + (H + C) + (N * C + C + N * C),
        "folded": (N * C + C) + (C + H) + (H + C) + C,
        "fused": C + (C + H) + (H + C) + C,
        "shared": (C * H + H) + (H * C + C),
        "flops": (N * C + C) + 2 * C * H + H + 2 * H * C + C + N * C,
        "kernels": (6, 4, 3, 2),
    },
    # x times a mask of C values; nothing is left of it where the projection has the zeros.
    "uniform_head": {
        "line": 2 * N * C,
        "kernel": 2 * N * C,
        "folded": 0,
        "fused": 0,
        "shared": C,
        "flops": N * C,
        "kernels": (1, 1, 0, 0),
    },
}


def test_every_operator_is_derived_here() -> None:
    assert set(BY_HAND) == set(names())


@pytest.mark.parametrize("name", BY_HAND)
def test_bytes_and_arithmetic_by_hand(name: str) -> None:
    cost, expected = operator_class(name).cost(N, C), BY_HAND[name]
    assert {traffic.form: traffic.elements for traffic in cost.traffic} == {form: expected[form] for form in FORMS}
    assert tuple(traffic.kernels for traffic in cost.traffic) == expected["kernels"]
    assert {traffic.shared for traffic in cost.traffic if traffic.kernels or traffic.elements} == {expected["shared"]}
    assert cost.flops == expected["flops"]


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in names()), *((name, {"causal": True}) for name in having("causal"))]
    + [(name, {"tokens": "2:-2"}) for name in having("tokens")],
)
def test_the_unfused_form_is_what_the_nodes_do(name: str, options: dict[str, Any]) -> None:
    """Bytes and number of the nodes that PyTorch runs, at a batch of one and of three."""
    graph = capture(Model(build(name, C, 2, (1,), options).eval(), (torch.randn(2, N, C),))).exported.graph_module
    weights = frozenset(node.name for node in graph.graph.nodes if node.name.startswith(("p_", "b_")))
    line = operator_class(name).cost(N, C, **options).traffic[0]
    for batch in (1, B):
        nodes = list(node_costs(graph, Sizes(batch_symbols(graph.graph, batch)), weights))
        assert sum(node.bytes for node in nodes) == 4 * line.moved(batch)
        assert sum(node.kind == "counted" for node in nodes) == line.kernels


class _Padded(nn.Module):
    """An operator that is handed its mask."""

    def __init__(self, operator: Any) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        with self.operator.masking.given(mask):
            return self.operator(x)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", having("masked"))
def test_the_masked_form_is_what_its_nodes_do(name: str, causal: bool) -> None:
    """Without the comparison that reads the mask; selecting is no arithmetic of a node, and a mask takes one byte."""
    options = {"masked": True, **({"causal": True} if causal else {})}
    mask = torch.arange(N).expand(2, N) < N - 3
    model = Model(_Padded(build(name, C, 2, (1,), options)).eval(), (torch.randn(2, N, C), mask))
    graph = capture(model, check=False).exported.graph_module
    weights = frozenset(node.name for node in graph.graph.nodes if node.name.startswith(("p_", "b_")))
    cost = operator_class(name).cost(N, C, **options)
    for batch in (1, B):
        nodes = list(node_costs(graph, Sizes(batch_symbols(graph.graph, batch)), weights))
        own = [node for node in nodes if node.kind == "counted" and node.operator != "eq"]
        assert len(own) == cost.traffic[0].kernels
        assert 4 * cost.traffic[0].moved(batch) - sum(node.bytes for node in own) == 3 * 4 * batch * N
        assert batch * cost.flops - sum(node.operations for node in own) == batch * N * C


def test_a_faster_form_moves_no_more() -> None:
    for name in names():
        moved = [traffic.moved(B) for traffic in operator_class(name).cost(N, C).traffic]
        assert moved == sorted(moved, reverse=True)


def test_the_roofline_of_se_is_not_that_of_cb() -> None:
    """Each operator has rows of its own: other bytes, arithmetic and kernels, as it states them."""
    model = counted("deit_tiny_patch16_224")[0]
    rows = {}
    for name in ("cb", "cb_s", "se"):
        table = roofline(audit(model, with_operator(model, name), batch=B))
        rows[name] = {(row["hardware"], row["dtype"], row["form"]): row for row in table["rows"]}
        cost = operator_class(name).cost(17, 192)
        for (_, dtype, form), row in rows[name].items():
            traffic = next(one for one in cost.traffic if one.form == form)
            assert row["operator_bytes"] == 2 * traffic.moved(B) * (4 if dtype == "float32" else 2)
            assert row["operator_operations"] == 2 * B * cost.flops
            assert row["kernels"] == 2 * traffic.kernels
    for place, row in rows["cb"].items():
        assert row["estimate"] < rows["se"][place]["estimate"]
        assert row["operator_seconds"] < rows["se"][place]["operator_seconds"] or place[2] == "line"


def test_every_operator_has_a_formula_and_defines_folding() -> None:
    for name in names():
        kind = operator_class(name)
        folding = kind.folding()
        assert kind.formula
        assert (folding.factor is None and not folding.zeros) == bool(folding.reason)
    assert operators.CB.folding().factor == 0.5
    assert operators.CB.folding(causal=True).factor is None
    assert "causal" in operators.CB.folding(causal=True).reason


@pytest.mark.parametrize("form", ["tokens", "causal", "masked"])
def test_forms_are_options_of_the_operators_that_have_them(form: str) -> None:
    value = {"tokens": "1:", "causal": True, "masked": True}[form]
    for name in names():
        if name in having(form):
            assert build(name, C, 2, (1,), {form: value}).options() == {form: value}
        else:
            with pytest.raises(cbsurgeon.CBSurgeonError, match="CB-OP-02"):
                build(name, C, 2, (1,), {form: value})


def test_operators_are_known_by_their_class() -> None:
    assert {kind.name for kind in classes().values()} >= set(names())
    for name in names():
        kind = operator_class(name)
        assert classes()[f"{kind.__module__}.{kind.__qualname__}"] is kind
        assert kind.__module__ == f"cbsurgeon.operators.{name}", "one file for each operator"


def _names_asked_for(source: str) -> list[int]:
    """Lines that compare with an operator's name, look one up in a mapping, or match one."""
    known, found = set(names()), []
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.expr | None] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            parts = list(node.keys)
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        values = [part for whole in parts if whole is not None for part in ast.walk(whole)]
        found += [node.lineno for part in values if isinstance(part, ast.Constant) and part.value in known]
    return found


def test_only_the_operators_package_asks_for_a_name() -> None:
    root = Path(cbsurgeon.__file__).parent
    files = [path for path in root.rglob("*.py") if path.relative_to(root).parts[0] not in ("operators",)]
    wrong = {str(path.relative_to(root)): _names_asked_for(path.read_text(encoding="utf-8")) for path in files}
    assert len(files) > 100
    assert {path: lines for path, lines in wrong.items() if lines} == {}


@pytest.mark.parametrize("source", ['op == "cb"', 'x = {"cb_s": 1}', 'a = op in ("cb", "se")', 'f(by == op == "cb")'])
def test_a_comparison_with_a_name_is_seen(source: str) -> None:
    assert set(_names_asked_for(source)) == {1}
