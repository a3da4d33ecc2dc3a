"""Autocast, gradient-mode, checkpoint and branching regions inside forward().

The references are the same networks with Context Broadcasting written into their own forward pass.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model

WIDTH = 8
CLOSE = 1e-5
"""float32: two blocks of sums over at most 16 numbers of order one round to about 1e-6."""


class Block(nn.Module):
    """A residual MLP; ``by_hand`` writes the token mean into it."""

    def __init__(self, region: str) -> None:
        super().__init__()
        self.region, self.by_hand = region, False
        self.norm = nn.LayerNorm(WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def mlp(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))
        if self.by_hand:
            y = y.lerp(y.mean(1, keepdim=True), 0.5) if y.dtype == torch.float32 else (y + y.mean(1, True)) / 2
        return y

    def forward(self, x: Tensor) -> Tensor:
        if self.region == "off":
            with torch.autocast("cpu", enabled=False):
                return x + self.mlp(x.float())
        if self.region == "on":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = self.mlp(x)
            return x + y.float()
        if self.region == "nested":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                x = x * 1.5
                with torch.autocast("cpu", enabled=False):
                    return x + self.mlp(x)
        if self.region == "grad":
            with torch.enable_grad():
                return x + self.mlp(x)
        return x + torch.utils.checkpoint.checkpoint(self.mlp, x, use_reentrant=False)  # type: ignore[no-any-return]


class Net(nn.Module):
    def __init__(self, region: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Block(region), Block(region)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


REGIONS = ["off", "on", "nested", "grad", "checkpoint"]


def tokens(batch: int = 2) -> Tensor:
    return torch.randn(batch, 5, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("region", REGIONS)
def test_the_program_computes_what_the_regions_do(region: str) -> None:
    net = Net(region).eval()
    program = capture(Model(net, (tokens(),)))
    x = tokens(3)
    with torch.no_grad():
        assert torch.equal(program.module()(x), net(x)), "casts included"
    assert not [node for node in program.exported.graph.nodes if "wrap_with" in str(node.target)]


@pytest.mark.thin(3)
@pytest.mark.parametrize("on", ["module", "program"])
@pytest.mark.parametrize("region", REGIONS)
def test_blocks_inside_regions_are_found_and_edited(region: str, on: str) -> None:
    net = Net(region).eval()
    model = Model(net, (tokens(),))
    found = cbs.inspect(model)
    assert [block.path for block in found.blocks] == ["blocks.0", "blocks.1"]
    edited = cbs.insert(model, cbs.plan(found, op="cb", layers="all"), on=on)  # type: ignore[arg-type]
    x = tokens(3)
    with torch.no_grad():
        got = edited.module(x) if edited.module is not None else edited.program.module()(x)  # type: ignore[union-attr]
        for block in net.blocks:
            block.by_hand = True
        expected = net(x)
    gap = (got - expected).abs().max()
    # bfloat16 has 8 bits: the two ways of writing the mean round differently by a few units of 2^-8 there.
    assert gap < (0.05 if region == "on" else CLOSE)


class Branching(nn.Module):
    """The middle block decides by a value which function runs."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block("off"), Block("off"), Block("off")])

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](x)
        block = self.blocks[1]
        assert isinstance(block, Block)
        x = x + torch.cond(x.sum() > 0, lambda t: block.mlp(t), lambda t: 2 * block.mlp(t), (x,))
        return self.blocks[2](x)  # type: ignore[no-any-return]


def test_a_branch_decided_by_values_is_named_and_hides_no_neighbour() -> None:
    found = cbs.inspect(Model(Branching().eval(), (tokens(),)))
    assert [block.path for block in found.blocks] == ["blocks.0", "blocks.2"]
    named = [one for one in found.rejected if one.reason == "run-time-branch"]
    assert len(named) == 1 and "cond" in named[0].detail and "test_c_regions.py" in named[0].detail
