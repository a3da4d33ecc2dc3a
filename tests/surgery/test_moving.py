"""Moving an operator from a layer to the one that replaced it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import SurgeryError
from cbsurgeon.graph.occupants import ON_INPUT, ON_OUTPUT
from cbsurgeon.models.model import Model
from cbsurgeon.operators import build
from cbsurgeon.operators.base import Operator
from cbsurgeon.surgery.module.carrying import carry, move

TOKENS, WIDTH = 5, 4
CLOSE = 1e-6
"""Absolute, on outputs of order one in float32."""


def mixed(y: Tensor) -> Tensor:
    return (y + y.mean(1, keepdim=True)) / 2


def by_hand(layer: nn.Linear, x: Tensor, name: str) -> Tensor:
    run = nn.functional.linear
    if name == ON_OUTPUT:
        return mixed(run(x, layer.weight, layer.bias))
    return run(mixed(x), layer.weight, layer.bias)


def layers(name: str) -> tuple[nn.Linear, nn.Linear, Operator]:
    torch.manual_seed(0)
    old, new = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
    operator = build("cb", WIDTH, 2, (1,), {})
    carry(old, name, operator)
    return old, new, operator


def is_plain(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear and not (layer._modules or layer._forward_hooks or layer._forward_pre_hooks)


@pytest.mark.parametrize("name", [ON_OUTPUT, ON_INPUT])
def test_the_new_layer_has_the_operator_and_the_old_one_is_plain(name: str) -> None:
    old, new, operator = layers(name)
    x = torch.randn(2, TOKENS, WIDTH)
    assert torch.allclose(old(x), by_hand(old, x, name), atol=CLOSE)
    move(old, new, name, operator)
    assert is_plain(old) and new._modules[name] is operator
    assert torch.allclose(new(x), by_hand(new, x, name), atol=CLOSE)


@pytest.mark.parametrize("name", [ON_OUTPUT, ON_INPUT])
def test_an_old_layer_that_gave_it_away_is_left_alone(name: str) -> None:
    """Another operator may be there by now."""
    old, new, operator = layers(name)
    others = nn.Linear(WIDTH, WIDTH)
    move(old, others, name, operator)
    another = build("cb", WIDTH, 2, (1,), {})
    carry(old, name, another)
    move(old, new, name, operator)
    assert old._modules[name] is another and new._modules[name] is operator
    move(nn.Linear(WIDTH, WIDTH), new := nn.Linear(WIDTH, WIDTH), name, operator)
    assert new._modules[name] is operator


class Wrapper(nn.Module):
    """Calls a layer that it holds."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.inner = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.parametrize("name", [ON_OUTPUT, ON_INPUT])
def test_a_copy_inside_a_wrapper_does_not_run_as_well(name: str) -> None:
    old, _, operator = layers(name)
    wrapper = Wrapper(copy.deepcopy(old))
    x = torch.randn(2, TOKENS, WIDTH)
    move(old, wrapper, name, operator)
    assert is_plain(wrapper.inner)
    assert torch.allclose(wrapper(x), by_hand(old, x, name), atol=CLOSE)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.fc1(self.norm(x)).relu())


@pytest.mark.parametrize("position", ["mid", "end"])
def test_a_container_in_place_of_the_layer(position: str) -> None:
    """A child of ``nn.Sequential`` runs as one more layer: with its own tensors it cannot take the operator over."""
    x = torch.randn(2, TOKENS, WIDTH)
    model = Model(Mlp().eval(), (x,))
    edited = cbs.insert(model, cbs.plan(cbs.inspect(model), op="cb", layers="all", pos=position)).module
    assert isinstance(edited, Mlp)
    expected = edited(x)
    assert not torch.allclose(expected, Mlp().eval()(x), atol=CLOSE)
    layer = edited.fc2
    edited.fc2 = nn.Sequential(layer, nn.Dropout()).eval()  # type: ignore[assignment]
    assert torch.allclose(edited(x), expected, atol=CLOSE), "it only calls the layer, which keeps its operator"
    edited.fc2 = nn.Sequential(nn.Linear(8, 2), nn.Linear(2, WIDTH)).eval()  # type: ignore[assignment]
    with pytest.raises(SurgeryError, match="CB-SURGERY-02") as refused:
        edited(x)
    assert "fc2" in refused.value.where
