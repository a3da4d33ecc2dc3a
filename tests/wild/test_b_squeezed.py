"""``squeeze()`` on the batch axis: with one sample, the axis is gone in a program whose graph was captured with two.

The references are a run of the network itself with one sample, and the mean written by hand.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs

WIDTH, TOKENS = 16, 7
CLOSE = 1e-5
"""Absolute, on outputs of order one in float32: what two blocks round is about 1e-6."""


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Network(nn.Module):
    """Two residual MLPs between two functions of the user's."""

    def __init__(self, enter: Callable[[Tensor], Tensor], leave: Callable[[Tensor], Tensor] = lambda y: y) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.leave = enter, leave
        self.norm, self.mlps = nn.LayerNorm(WIDTH), nn.ModuleList([Mlp(), Mlp()])

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        for mlp in self.mlps:
            y = y + mlp(self.norm(y))
        return self.leave(y)


def ranks(net: Network, x: Tensor) -> set[int]:
    """The numbers of axes of the tensors that the MLPs give."""
    seen = set[int]()
    handles = [mlp.register_forward_hook(lambda _, __, y: seen.add(y.dim())) for mlp in net.mlps]
    net(x)
    for handle in handles:
        handle.remove()
    return seen


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("enter", "shape"),
    [
        (lambda x: x.squeeze(0), (TOKENS, WIDTH)),
        (lambda x: x.squeeze(), (TOKENS, WIDTH)),
        (lambda x: x.squeeze((0, 1)), (1, TOKENS, WIDTH)),
        (lambda x: torch.squeeze(x, 0), (TOKENS, WIDTH)),
    ],
)
def test_a_block_without_a_batch_axis_for_one_sample_is_rejected(
    enter: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    net = Network(enter).eval()
    assert ranks(net, noise(1, *shape)) == {2}  # an axis 1 of the captured tensor would be the channels
    found = cbs.inspect(cbs.Model(net, (noise(2, *shape),)))
    assert not found.blocks
    assert [str(one.reason) for one in found.rejected] == ["batch-squeezed"] * 2
    assert all("has 2 axes instead of 3" in one.detail and "squeeze" in one.detail for one in found.rejected)


@pytest.mark.parametrize(
    ("enter", "leave"),
    [
        (lambda x: x.squeeze().view(-1, TOKENS, WIDTH), lambda y: y),  # the axis is back before the blocks
        (lambda x: x, lambda y: y.squeeze()),
        (lambda x: x + x.mean((1, 2)).squeeze().view(-1, 1, 1), lambda y: y),
    ],
)
@pytest.mark.parametrize("samples", [1, 3])
def test_blocks_that_keep_their_axes_are_found(
    enter: Callable[[Tensor], Tensor], leave: Callable[[Tensor], Tensor], samples: int
) -> None:
    net, x = Network(enter, leave).eval(), noise(samples, TOKENS, WIDTH)
    hand = copy.deepcopy(net)
    for mlp in hand.mlps:
        mlp.register_forward_hook(lambda _, __, y: (y + y.mean(1, keepdim=True)) / 2)
    edited = cbs.insert(cbs.Model(net, (x,)), op="cb", layers="all", on="program")
    with torch.no_grad():
        torch.testing.assert_close(edited.program.module()(x), hand(x), atol=CLOSE, rtol=0)


def test_queries_of_repeated_samples_cannot_be_divided_but_blocks_are_found() -> None:
    class Beams(nn.Module):
        """Each sample three times, as in a beam search, in one batch."""

        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
            self.mlp = Mlp()

        def forward(self, x: Tensor) -> Tensor:
            x = x.repeat_interleave(3, 0)
            x = x + (self.q(x) @ self.k(x).mT).softmax(-1) @ self.v(x)
            return x + self.mlp(x)

    net, x = Beams().eval(), noise(2, TOKENS, WIDTH)
    hand = copy.deepcopy(net)
    hand.mlp.register_forward_hook(lambda _, __, y: (y + y.mean(1, keepdim=True)) / 2)
    edited = cbs.insert_(net, op="cb", layers="all", inputs=x)
    with torch.no_grad():
        torch.testing.assert_close(edited(x), hand(x), atol=CLOSE, rtol=0)
