"""Counts: compared with the paper's formulas, with fvcore, and between batch sizes."""

from __future__ import annotations

import json
from math import prod

import pytest
import torch
from torch import nn

from cbsurgeon.checks.cost.auditing import audit, count
from cbsurgeon.checks.cost.counts import QUANTITIES, Tally, readable
from cbsurgeon.checks.cost.nodes import Sizes, batch_symbols, node_costs
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from cbsurgeon.operators import CB, CBS
from tests.checks.cost_models import counted, with_operator

TOKENS, WIDTH, HIDDEN, DEPTH = 17, 192, 768, 2  # deit_tiny at 64 px: 16 patches and a class token


@pytest.fixture(scope="module")
def tiny() -> Model:
    return counted("deit_tiny_patch16_224")[0]


def test_vit_arithmetic_by_hand(tiny: Model) -> None:
    """Matrix products of a ViT, written out; what remains in the paper's convention is one per layer-norm value."""
    patches, width, hidden = TOKENS - 1, WIDTH, HIDDEN
    products = patches * width * 3 * 16 * 16 + width * 1000
    products += DEPTH * (TOKENS * width * (3 * width + width + 2 * hidden) + 2 * TOKENS * TOKENS * width)
    norms = (2 * DEPTH + 1) * TOKENS * width
    assert count(tiny).total.flops == products + norms


def test_parameters_are_those_of_the_module(tiny: Model) -> None:
    counted = count(tiny)
    assert counted.total.params == sum(parameter.numel() for parameter in tiny.module.parameters())
    assert counted.total.params == sum(part.params for part in counted.by_block.values())


def test_a_shared_parameter_counts_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
            self.second.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x))

    model = Model(Tied().eval(), (torch.randn(2, 8),))
    assert count(model).total.params == 64 + 8 + 8
    program = Model(None, program=capture(model).exported)
    assert count(program).total.params == 64 + 8 + 8


@pytest.mark.parametrize(
    ("op", "position", "width"),
    [("cb", "front", WIDTH), ("cb", "mid", HIDDEN), ("cb", "end", WIDTH), ("cb_s", "end", WIDTH)],
)
def test_difference_is_the_closed_form(tiny: Model, op: str, position: str, width: int) -> None:
    """Parameters and arithmetic of N tokens of C channels per block; bytes are what the inserted nodes move."""
    result = audit(tiny, with_operator(tiny, op, position))
    closed = (CB if op == "cb" else CBS).cost(TOKENS, width)
    assert result.difference.params == DEPTH * closed.parameters
    assert result.difference.flops == DEPTH * closed.paper
    assert result.difference.operations == DEPTH * closed.flops
    assert [(item.op, item.tokens, item.channels, item.calls) for item in result.b.inserted] == [
        (op, TOKENS, width, 1)
    ] * DEPTH
    assert result and not result.b.uncounted


@pytest.mark.parametrize("op", ["cb", "cb_s"])
def test_closed_form_is_what_the_nodes_do(tiny: Model, op: str) -> None:
    """``operations`` of the closed form is the count of the operator's own nodes, one by one."""
    program = capture(with_operator(tiny, op), check=False)
    graph = program.exported.graph_module
    own = [
        cost
        for cost in node_costs(graph, Sizes(batch_symbols(graph.graph, 1)), frozenset())
        if any(path.endswith("context_broadcast") for path in cost.stack)
    ]
    closed = (CB if op == "cb" else CBS).cost(TOKENS, WIDTH)
    assert sum(cost.operations for cost in own) == DEPTH * closed.flops


@pytest.mark.parametrize("op", ["cb", "cb_s"])
def test_inserted_bytes_by_hand(tiny: Model, op: str) -> None:
    """Every operand and result once: the mean, both halves and the sum of CB; two products and a sum of CB_S."""
    n, c = TOKENS, WIDTH
    elements = {
        "cb": (n * c + c) + 2 * n * c + 2 * c + (2 * n * c + c),
        "cb_s": (n * c + c) + 3 * c + (2 * n * c + c),
    }[op]
    assert audit(tiny, with_operator(tiny, op)).difference.bytes == DEPTH * 4 * elements


def test_program_and_module_count_the_same(tiny: Model) -> None:
    """A model that exists as a program only, its operators written in its module stack, counts as the module does."""
    edited = with_operator(tiny, "cb_s")
    program = Model(None, program=capture(edited).exported)
    assert count(program).total == count(edited).total
    assert [item.to_dict() for item in count(program).inserted] == [item.to_dict() for item in count(edited).inserted]


def test_arithmetic_grows_with_the_batch(tiny: Model) -> None:
    """A batch of 8 computes eight times as much, reads the same weights once, and leaves no guard in the graph."""
    program = capture(tiny)
    one, eight = (count(tiny, batch=batch, program=program) for batch in (1, 8))
    assert eight.total.flops == 8 * one.total.flops
    assert eight.total.operations == 8 * one.total.operations
    assert eight.weight_bytes == one.weight_bytes
    moved = one.total.bytes - one.weight_bytes
    constant = 8 * moved - (eight.total.bytes - eight.weight_bytes)
    # expanding the class token to the batch is the only activation read that does not grow: its stored size stays
    assert 0 <= constant <= 7 * 4 * WIDTH
    module = program.module()
    assert module(torch.randn(5, 3, 64, 64)).shape == (5, 1000)


def test_parts_add_up(tiny: Model) -> None:
    counted = count(with_operator(tiny, "cb_s"))
    assert sum(counted.by_block.values(), Tally()) == counted.total
    by_operator = sum(counted.by_operator.values(), Tally())
    for quantity in QUANTITIES[1:]:
        assert getattr(by_operator, quantity) == getattr(counted.total, quantity)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("deit_tiny_patch16_224", ["blocks.0", "blocks.1"]),
        ("swin_tiny_patch4_window7_224", ["layers.0.blocks.0", "layers.0.blocks.1", "layers.1"]),
        ("torchvision", ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1"]),
        ("transformers", ["vit.layers.0", "vit.layers.1"]),
    ],
    ids=["Sequential", "stages", "OrderedDict", "ModuleList"],
)
def test_blocks_are_the_repeated_modules(name: str, blocks: list[str]) -> None:
    """A block is one of several of its kind in a container (a stage of one block is itself one); no part of it is."""
    found = list(counted(name)[1].by_block)
    assert [part for part in found if any(part.startswith(block) for block in blocks)] == blocks


def test_unknown_operators_are_listed_not_zero() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.fft2(x).real + x

    result = audit(Model(Odd().eval(), (torch.randn(2, 4, 4),)))
    assert result.a.uncounted == {"fft_fft2": 1}
    assert not result
    assert "fft_fft2 x1" in str(result)
    assert result.to_dict()["uncounted"]["a"] == {"fft_fft2": 1}


def test_copies_cost_bytes_and_views_nothing() -> None:
    class Layouts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            viewed = x.reshape(x.shape[0], 12)  # contiguous: a view
            return viewed.reshape(x.shape[0], 3, 4).transpose(1, 2).reshape(x.shape[0], 12)  # this one must copy

    counted = count(Model(Layouts().eval(), (torch.randn(2, 3, 4),)))
    assert counted.total == Tally(bytes=2 * 12 * 4)
    assert counted.calls == {"reshape": 1}
    assert counted.free["reshape"] == 2


@pytest.mark.parametrize("equation", ["bij,bjk->bik", "...ij,...jk->...ik", "bhid,bhjd->bhij"])
def test_einsum_is_the_product_of_its_indices(equation: str) -> None:
    class Contract(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.einsum(equation, x, y)

    shapes = {
        "bij,bjk->bik": ((2, 3, 4), (2, 4, 5)),
        "...ij,...jk->...ik": ((2, 7, 3, 4), (2, 7, 4, 5)),
        "bhid,bhjd->bhij": ((2, 7, 3, 4), (2, 7, 5, 4)),
    }[equation]
    model = Model(Contract().eval(), tuple(torch.randn(*shape) for shape in shapes))
    assert count(model).total.flops == prod(shapes[0][1:-2]) * 3 * 4 * 5


def test_attention_counts_alike_in_one_node_and_in_pieces() -> None:
    """scaled_dot_product_attention is the products, the scaling and the softmax it stands for."""

    class Pieces(nn.Module):
        def __init__(self, fused: bool) -> None:
            super().__init__()
            self.fused = fused

        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            if self.fused:
                return nn.functional.scaled_dot_product_attention(q, k, v)
            return ((q @ k.transpose(-2, -1)) / 2.0).softmax(-1) @ v

    inputs = tuple(torch.randn(2, 3, 5, 4) for _ in range(3))
    fused, pieces = (count(Model(Pieces(flag).eval(), inputs)).total for flag in (True, False))
    assert (fused.flops, fused.operations) == (pieces.flops, pieces.operations)


def test_documents(tiny: Model) -> None:
    single, pair = audit(tiny), audit(tiny, with_operator(tiny, "cb_s"))
    for result in (single, pair):
        document = json.loads(json.dumps(result.to_dict()))
        assert document["schema"] == "cbsurgeon.audit/1"
        for quantity in QUANTITIES:
            assert set(document[quantity]) == {"a", "b", "difference", "relative", "convention"}
            assert sum(row[quantity]["a"] for row in document["by_block"]) == document[quantity]["a"]
    assert single.to_dict()["params"]["difference"] is None
    assert pair.to_dict()["params"]["difference"] == DEPTH * WIDTH
    assert "+384" in str(pair)


@pytest.mark.parametrize(
    ("value", "text"), [(4_608, "4,608"), (907_776, "0.91 M"), (22_050_664, "22.05 M"), (4_608_338_304, "4.61 G")]
)
def test_readable_numbers(value: int, text: str) -> None:
    assert readable(value) == text
    assert readable(value, signed=True) == f"+{text}"
