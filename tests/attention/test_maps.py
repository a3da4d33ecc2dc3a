"""Attention maps equal those that the networks compute themselves, in every way of writing attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import cbsurgeon as cbs
from cbsurgeon.analysis import attention_maps
from cbsurgeon.graph.capture import capture
from tests.attention.networks import CASES, Talking

ROUNDING = 1e-6
"""Maps are at most 1; a softmax in float32 that is computed in another order is this close."""

BFLOAT16 = 0.1
"""What computing queries, keys and scores in bfloat16 does to a weight of these networks."""

WITH_MAP = [name for name, case in CASES.items() if case.truth]


def references(name: str, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """The maps the network keeps when it runs."""
    with torch.no_grad():
        module(*inputs)
    found: list[Any] = [one.map for one in CASES[name].maps(module)]
    return found


@pytest.mark.parametrize("name", WITH_MAP)
def test_maps_are_the_network_s_own(name: str) -> None:
    case = CASES[name]
    module, inputs = case.module(), case.inputs()
    found = list(attention_maps(cbs.Model(module, inputs), inputs))
    expected = references(name, module, inputs)
    assert len(found) == len(expected)
    for (attention, got), want in zip(found, expected, strict=True):
        assert got.dtype == torch.float32
        assert got.shape == want.shape
        assert got.shape[1:] == (attention.heads, attention.queries, attention.keys)
        assert (got - want).abs().max() < ROUNDING


@pytest.mark.parametrize("name", ["plain", "fused", "talking", "swin", "class-attention"])
def test_a_captured_program_gives_the_same_maps_at_another_batch_size(name: str) -> None:
    case = CASES[name]
    module, inputs = case.module(), case.inputs()
    program = capture(cbs.Model(module, inputs))
    larger = tuple(torch.randn(5, *tensor.shape[1:]) for tensor in inputs)
    for (_, got), want in zip(attention_maps(program, larger), references(name, module, larger), strict=True):
        assert (got - want).abs().max() < ROUNDING


@pytest.mark.parametrize("name", ["plain", "folded", "fused", "talking", "swin"])
def test_maps_of_a_model_in_half_precision_are_computed_in_float32(name: str) -> None:
    case = CASES[name]
    module, inputs = case.module().bfloat16(), tuple(tensor.bfloat16() for tensor in case.inputs())
    found = [one for _, one in attention_maps(cbs.Model(module, inputs), inputs)]
    for got in found:
        assert got.dtype == torch.float32
        assert (got.sum(-1) - 1).abs().max() < ROUNDING  # a map rounded to bfloat16 is 1e-3 away from this
    exact = attention_maps(module.float(), tuple(tensor.float() for tensor in inputs))
    for got, (_, want) in zip(found, exact, strict=True):
        assert (got - want).abs().max() < BFLOAT16


def test_the_map_of_talking_heads_is_the_one_before_the_mixing() -> None:
    case = CASES["talking"]
    module, inputs = case.module(), case.inputs()
    ((_, got),) = attention_maps(module, inputs)
    references("talking", module, inputs)
    assert isinstance(module, Talking) and module.mixed is not None
    assert (got.sum(-1) - 1).abs().max() < ROUNDING
    assert (got - module.mixed).abs().max() > 1e-3
    ((_, mixed),) = attention_maps(module, inputs, mixed=True)
    assert (mixed - module.mixed).abs().max() < ROUNDING


@pytest.mark.parametrize("op", ["cb", "cb_s"])
def test_an_inserted_operator_changes_the_maps_of_later_layers_only(op: str) -> None:
    case = CASES["class-token"]
    module, inputs = case.module(), case.inputs()
    blocks = nn.Sequential(module.blocks[0], Mlp().eval(), module.blocks[1]).eval()
    module.blocks = blocks
    model = cbs.Model(module, inputs)
    edited = cbs.insert(model, cbs.plan(cbs.inspect(model), op=op, layers="all"))
    if op == "cb_s":
        for part in edited.module.modules():
            if hasattr(part, "scale") and isinstance(part.scale, nn.Parameter):
                part.scale.data.fill_(0.7)
    before = [one for _, one in attention_maps(module, inputs)]
    after = [one for _, one in attention_maps(edited, inputs)]
    assert (before[0] - after[0]).abs().max() < ROUNDING
    assert (before[1] - after[1]).abs().max() > 1e-3
    with torch.no_grad():
        edited.module(*inputs)
    want = edited.module.blocks[2].map
    assert (after[1] - want).abs().max() < ROUNDING


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))


def test_images_of_another_size_are_refused_with_the_flags_that_help() -> None:
    case = CASES["class-token"]
    program = capture(cbs.Model(case.module(), case.inputs()))
    with pytest.raises(cbs.CBSurgeonError) as caught:
        next(attention_maps(program, torch.randn(2, 3, 10, 10)))
    assert "--size 12" in caught.value.do and "img_size=10" in caught.value.do


@pytest.mark.parametrize(
    ("batch", "why"),
    [
        (torch.randn(2, 3, 10, 10), r"\[2, 3, 10, 10\]"),
        ((torch.randn(2, 3, 12, 12), torch.randn(2)), "2 tensors"),
        ({"pixels": torch.randn(2, 3, 12, 12)}, "the batch has pixels"),
    ],
)
def test_a_batch_of_another_form_is_refused(batch: Any, why: str) -> None:
    case = CASES["class-token"]
    program = capture(cbs.Model(case.module(), case.inputs()))
    with pytest.raises(cbs.CBSurgeonError, match=why) as caught:
        next(attention_maps(program, batch))
    assert caught.value.code == "CB-ANALYZE-01"
