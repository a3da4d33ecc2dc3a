"""Attention without softmax that multiplies a mask made from lengths: padding, whatever the lengths of the example."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs

TOKENS, WIDTH = 7, 16


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm1(x)).chunk(3, -1)
        weights = torch.sigmoid(query @ key.mT) * seen
        x = x + self.proj(weights @ value)
        return x + self.mlp(self.norm2(x))


class Net(nn.Module):
    """Two blocks; with ``causal``, a token sees no later one either."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.causal, self.blocks = causal, nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        seen = (torch.arange(x.shape[1]) < lengths[:, None])[:, None, :].to(x.dtype)
        if self.causal:
            seen = seen * torch.ones(x.shape[1], x.shape[1]).tril()
        for block in self.blocks:
            x = block(x, seen)
        return x


def moved(net: nn.Module, lengths: Tensor, token: int) -> Tensor:
    """``[tokens]``: how much each token of the output changes if one token of the input is changed."""
    x = torch.randn(2, TOKENS, WIDTH)
    other = x.clone()
    other[:, token] += torch.randn(2, WIDTH)
    with torch.no_grad():
        return (net(x, lengths) - net(other, lengths)).abs().amax((0, 2))


@pytest.mark.parametrize("lengths", [(7, 7), (4, 6), (4, 4)])
def test_hidden_tokens_at_the_end_are_padding_and_no_order(lengths: tuple[int, int]) -> None:
    net, given = Net(causal=False).eval(), torch.tensor(lengths)
    assert moved(net, given, 3)[0] > 1e-3, "the first token sees a later one, so the network is not causal"
    inputs = (torch.randn(2, TOKENS, WIDTH), given)
    assert not cbs.inspect(cbs.Model(net, inputs)).causal_stacks
    for how, code in (({}, "CB-LEAK-02"), ({"masked": True}, "CB-LEAK-06")):
        with pytest.raises(cbs.CBSurgeonError, match=code):
            cbs.insert_(net, op="cb", layers="all", inputs=inputs, **how)


@pytest.mark.parametrize("lengths", [(7, 7), (4, 6), (4, 4)])
def test_an_order_is_still_found_beside_padding(lengths: tuple[int, int]) -> None:
    net, given = Net(causal=True).eval(), torch.tensor(lengths)
    assert float(moved(net, given, 3)[:3].max()) == 0 and moved(net, given, 0)[3] > 1e-3
    inputs = (torch.randn(2, TOKENS, WIDTH), given)
    assert cbs.inspect(cbs.Model(net, inputs)).causal_stacks
    for how in ({}, {"causal": True}, {"masked": True}, {"causal": True, "masked": True}):
        with pytest.raises(cbs.CBSurgeonError, match="CB-LEAK-"):
            cbs.insert_(net, op="cb", layers="all", inputs=inputs, **how)
