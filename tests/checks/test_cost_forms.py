"""The cost formula of every operator, form and option, compared with a count of its nodes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cbsurgeon.checks.cost.auditing import audit, count
from cbsurgeon.checks.cost.nodes import Sizes, batch_symbols, node_costs
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from cbsurgeon.operators import Operator, build
from cbsurgeon.surgery import insert_module, insert_program, plan
from tests.surgery import architectures

FORMS: list[tuple[str, dict[str, Any]]] = [
    ("cb", {}),
    ("cb", {"tokens": "1:"}),
    ("cb", {"tokens": ":3"}),
    ("cb", {"tokens": "2:-2"}),
    ("cb", {"causal": True}),
    ("cb", {"causal": True, "tokens": "1:"}),
    ("cb_s", {}),
    ("cb_s", {"tokens": "-4:"}),
    ("cb_s", {"causal": True}),
    ("cb_s", {"causal": True, "tokens": ":5", "initial": 0.5}),
    ("cb_retrofit", {"strength": 0.25}),
    ("cb_retrofit", {"causal": True}),
    ("cb_retrofit", {"tokens": "1:"}),
    ("cb_gate", {}),
    ("cb_gate", {"class_token": 3}),
    ("cb_hybrid", {}),
    ("se", {}),
    ("se", {"reduction": 8}),
    ("se", {"reduction": 1}),
    ("se", {"reduction": 64}),
]
SIZES = ((9, 32), (17, 48))


@pytest.mark.parametrize(("op", "options"), FORMS, ids=lambda value: str(value))
def test_closed_form(op: str, options: dict[str, Any]) -> None:
    """Operations and elements exactly; the paper's multiply-accumulates up to what is done once per channel."""
    for tokens, channels in SIZES:
        operator = build(op, channels, 2, (1,), options)
        graph = capture(Model(operator.eval(), (torch.randn(2, tokens, channels),))).exported.graph_module
        weights = frozenset(
            node.name for node in graph.graph.nodes if node.op == "placeholder" and node.name.startswith(("p_", "b_"))
        )
        nodes = list(node_costs(graph, Sizes(batch_symbols(graph.graph, 1)), weights))
        closed = operator.cost(tokens, channels, **options)
        assert not [node.name for node in nodes if node.kind == "uncounted"]
        assert sum(node.operations for node in nodes) == closed.flops
        assert sum(node.bytes for node in nodes) == 4 * closed.elements
        assert 0 <= sum(node.flops for node in nodes) - closed.paper <= 2 * channels
        assert sum(parameter.numel() for parameter in operator.parameters()) == closed.parameters


class Bent(Operator):
    """A user's own operator without a stated cost."""

    name = "bent"

    def forward(self, x: Tensor) -> Tensor:
        return x + x.tanh()


@pytest.mark.parametrize(
    ("op", "options"),
    [("cb", {"tokens": "1:"}), ("cb_s", {"causal": True}), ("se", {"reduction": 4}), (f"mod:{__name__}:Bent", {})],
)
def test_audit_knows_the_options(op: str, options: dict[str, Any]) -> None:
    """A module and a program with the same operators count the same, by the closed form of their options."""
    model, found = architectures.model("deit"), architectures.inspection("deit")
    recipe = plan(found, op=op, layers="all", **options)
    by_module = audit(model, insert_module(model, recipe)).difference
    by_program = count(insert_program(architectures.as_program("deit"), recipe)).total - count(model).total
    assert by_module == by_program
    tokens, channels = found.blocks[0].tokens, found.blocks[0].channels
    if op.startswith("mod:"):
        assert by_module.operations == 2 * 2 * tokens * channels, "two blocks, a tanh and a sum of every value"
        assert by_module.flops == 0
        return
    closed = build(op, channels, 2, (1,), options).cost(tokens, channels, **options)
    assert by_module.operations == 2 * closed.flops
    assert by_module.flops == 2 * closed.paper
    assert by_module.params == 2 * closed.parameters
    assert by_module.bytes == 2 * 4 * closed.elements


def test_a_form_is_not_the_plain_operator() -> None:
    """197 tokens: the slice without the class token saves one token's work, the causal form costs more."""
    plain, tail, causal = (
        build("cb", 384, 2, (1,), options).cost(197, 384, **options)
        for options in ({}, {"tokens": "1:"}, {"causal": True})
    )
    assert plain.flops - tail.flops == 3 * 384
    assert causal.flops - plain.flops == 2 * 197 * 384 - 2 * 384
    assert "196 of 197" in tail.formula
