"""Programs that were exported with another axis than the batch as the dynamic one, or with none.

The reference is the mean written by hand into the network that was exported.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import cbsurgeon as cbs
from cbsurgeon.errors import CaptureError
from tests.wild.test_b_one_direction import WIDTH, Attention, Mlp, Neighbours, Network, RunningSum, by_hand, noise

CLOSE = 1e-5
"""Absolute, on outputs of order one in float32: what two blocks round is about 1e-6."""

BATCH, TOKENS = Dim("batch", min=1, max=64), Dim("tokens", min=2, max=64)


class SamplesFirst(nn.Module):
    """The network with its tokens in front, for inputs with the samples in front."""

    def __init__(self, mixer: type[nn.Module]) -> None:
        super().__init__()
        self.inner = Network(mixer)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(0, 1)).transpose(0, 1)


def edited(net: nn.Module, x: Tensor, dynamic: dict[int, Any] | None, tmp_path: Path) -> Any:
    program = torch.export.export(net.eval(), (x,), dynamic_shapes=None if dynamic is None else (dynamic,))
    torch.export.save(program, tmp_path / "m.pt2")
    return cbs.insert(cbs.load(tmp_path / "m.pt2", trust=True), op="cb", layers="all", on="program").program.module()


@pytest.mark.parametrize("mixer", [Attention, RunningSum, Neighbours])
@pytest.mark.parametrize(
    ("samples_first", "dynamic"),
    [
        (True, {1: TOKENS}),  # a language model with a fixed batch
        (False, {0: TOKENS}),
        (False, None),  # nothing is dynamic, and axis 0 holds the tokens
    ],
)
def test_an_axis_of_tokens_is_not_taken_for_the_batch(
    mixer: type[nn.Module], samples_first: bool, dynamic: dict[int, Any] | None, tmp_path: Path
) -> None:
    net = SamplesFirst(mixer) if samples_first else Network(mixer)
    x = noise(2, 9, WIDTH) if samples_first else noise(9, 2, WIDTH)
    with pytest.raises(CaptureError, match="is assumed to be the batch") as raised:
        edited(net, x, dynamic, tmp_path)
    assert raised.value.code == "CB-CAPTURE-08" and "dynamic_shapes" in str(raised.value.do)


def test_two_dynamic_axes_are_named(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="axis 0 of x, axis 1 of x are dynamic"):
        edited(SamplesFirst(Attention), noise(2, 9, WIDTH), {0: BATCH, 1: TOKENS}, tmp_path)


@pytest.mark.parametrize("mixer", [Attention, Neighbours])
@pytest.mark.parametrize(("samples_first", "dynamic"), [(True, {0: BATCH}), (True, None), (False, {1: BATCH})])
def test_the_batch_is_right_where_it_is_dynamic_or_in_front(
    mixer: type[nn.Module], samples_first: bool, dynamic: dict[int, Any] | None, tmp_path: Path
) -> None:
    net = (SamplesFirst(mixer) if samples_first else Network(mixer)).eval()
    x = noise(2, 9, WIDTH) if samples_first else noise(9, 2, WIDTH)
    with torch.no_grad():
        result = edited(copy.deepcopy(net), x, dynamic, tmp_path)(x)
        torch.testing.assert_close(result, by_hand(net, 0)(x), atol=CLOSE, rtol=0)


class Crowded(nn.Module):
    """Later samples get what earlier ones left (experts with a limited capacity); tokens attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norm, self.mlp = nn.LayerNorm(WIDTH), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + (self.q(x) @ self.k(x).mT).softmax(-1) @ self.v(x) * (x.mean((1, 2), keepdim=True).cumsum(0) < 9)
        x = x + x.mean((1, 2), keepdim=True).cumsum(0)
        return x + self.mlp(self.norm(x))


def test_samples_that_influence_each_other_in_a_program_are_no_reason_to_refuse_it(tmp_path: Path) -> None:
    net, x = Crowded().eval(), noise(3, 9, WIDTH)
    with torch.no_grad():
        result = edited(copy.deepcopy(net), x, {0: BATCH}, tmp_path)(x)
        torch.testing.assert_close(result, by_hand(net, 1)(x), atol=CLOSE, rtol=0)
