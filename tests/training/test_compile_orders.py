"""A compiled edited model computes with its operators, also if other models were compiled before in the same
process."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.models.vision_transformer import Block

from cbsurgeon.deploy.runtimes import open_runtime
from cbsurgeon.graph import inspect
from cbsurgeon.models.model import Model
from cbsurgeon.surgery import insert_module, plan

ROUNDING = 1e-4
"""Inductor groups its sums differently; the operators move these outputs by more than a hundred times as much."""


@pytest.fixture(autouse=True)
def without_graphs() -> None:
    """Each test makes its own order."""
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def pair() -> tuple[Model, Model]:
    torch.manual_seed(0)
    module = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=32, num_heads=2, num_classes=10
    ).eval()
    for parameter in module.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model = Model(module, (torch.randn(2, 3, 32, 32),))
    return model, insert_module(model, plan(inspect(model), op="cb", layers="all", pos="end"))


def expected(pair: tuple[Model, Model]) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        plain, edited = (model.module(model.example_inputs[0]) for model in pair)
    assert (plain - edited).abs().max() > 100 * ROUNDING, "the operators must be seen in the outputs"
    return plain, edited


def compiled(model: Model) -> torch.Tensor:
    with open_runtime(copy.deepcopy(model), "compile") as runtime:
        (found,) = runtime.run({"x": model.example_inputs[0]}).values()
    return found


@pytest.mark.wide
def test_the_graph_of_the_original_is_not_reused(pair: tuple[Model, Model]) -> None:
    plain, edited = expected(pair)
    for model, right in ((pair[0], plain), (pair[1], edited), (pair[0], plain)):
        assert (compiled(model) - right).abs().max() < ROUNDING


def test_nor_one_that_the_user_compiled(pair: tuple[Model, Model]) -> None:
    _, edited = expected(pair)
    with torch.no_grad():
        torch.compile(pair[0].module)(pair[0].example_inputs[0])
    assert (compiled(pair[1]) - edited).abs().max() < ROUNDING


def test_nor_after_a_graph_break(pair: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, edited = expected(pair)
    forward = Block.forward

    def broken(self: Block, x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return forward(self, x)

    monkeypatch.setattr(Block, "forward", broken)
    for model, right in ((pair[0], plain), (pair[1], edited), (pair[0], plain)):
        assert (compiled(model) - right).abs().max() < ROUNDING
