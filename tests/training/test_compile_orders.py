"""A compiled edited model computes with its operators, whatever was compiled before it in the same process."""

from __future__ import annotations

import copy

import pytest
import timm
import torch

from cbsurgeon.deploy.runtimes import open_runtime
from cbsurgeon.graph import inspect
from cbsurgeon.models.model import Model
from cbsurgeon.surgery import insert_module, plan

ROUNDING = 1e-4
"""Inductor groups its sums differently; the operators move these outputs by more than a hundred times as much."""


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


def test_the_graph_of_the_original_is_not_reused(pair: tuple[Model, Model]) -> None:
    x = pair[0].example_inputs[0]
    with torch.no_grad():
        plain, edited = (model.module(x) for model in pair)
    assert (plain - edited).abs().max() > 100 * ROUNDING, "the operators must be seen in the outputs"
    for model, expected in (*zip(pair, (plain, edited), strict=True), (pair[0], plain)):
        with open_runtime(copy.deepcopy(model), "compile") as runtime:
            (found,) = runtime.run({"x": x}).values()
        assert (found - expected).abs().max() < ROUNDING
