"""What a refusal because of padding says to do can be done, and then the insertion is right."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import SurgeryError

WIDTH, TOKENS = 16, 7
CLOSE = 1e-5
"""Absolute, on outputs of order one in float32: what two blocks round is about 1e-6."""


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(2)]) for _ in range(3))
        self.mlps = nn.ModuleList([Mlp() for _ in range(2)])

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        for q, k, v, mlp in zip(self.q, self.k, self.v, self.mlps, strict=True):
            scores = q(x) @ k(x).transpose(1, 2)
            if seen is not None:
                scores = scores.masked_fill(~seen[:, None], -1e9)
            x = x + scores.softmax(-1) @ v(x)
            x = x + mlp(x)
        return x


class Lengths(nn.Module):
    """The number of tokens of each sample may be given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tower = Tower()

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.tower(x, None if lengths is None else torch.arange(TOKENS) < lengths[:, None])


class Absent(Lengths):
    """Tokens that are no numbers are absent."""

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.tower(x.nan_to_num(), ~x.isnan().any(-1))


class TwoTowers(nn.Module):
    """Pictures without padding, and texts of some length."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pictures, self.texts = Tower(), Tower()

    def forward(self, picture: Tensor, text: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.pictures(picture), self.texts(text, torch.arange(TOKENS) < lengths[:, None])


X = torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))
COUNTS = torch.tensor([4, 7])


def refused(net: nn.Module, *inputs: Tensor) -> str:
    with pytest.raises(SurgeryError, match="CB-LEAK-02") as raised:
        cbs.insert_(copy.deepcopy(net), op="cb", layers="all", inputs=inputs)
    return str(raised.value.do)


def by_hand(net: nn.Module, tower: str) -> nn.Module:
    net = copy.deepcopy(net)
    for mlp in net.get_submodule(tower).mlps:
        mlp.register_forward_hook(lambda _, __, y: (y + y.mean(1, keepdim=True)) / 2)
    return net


def test_an_input_that_can_be_left_out() -> None:
    net = Lengths().eval()
    do = refused(net, X, COUNTS)
    assert "forward() runs without lengths" in do and "stack" not in do  # there is one stack only
    edited = cbs.insert_(copy.deepcopy(net), op="cb", layers="all", inputs=X)
    with torch.no_grad():
        torch.testing.assert_close(edited(X), by_hand(net, "tower")(X), atol=CLOSE, rtol=0)


def test_positions_that_lengths_are_compared_with_are_no_channels() -> None:
    """Without norms, a vector that scales or shifts an axis shows the channels; positions do neither."""
    found = cbs.inspect(cbs.Model(Lengths().eval(), (X, COUNTS)))
    assert [(block.kind, block.token_axes, block.channels) for block in found.blocks] == [("mlp", (1,), WIDTH)] * 2


def test_tokens_that_are_themselves_the_mask_cannot_be_left_out() -> None:
    absent = X.clone()
    absent[0, 4:] = float("nan")
    do = refused(Absent().eval(), absent)
    assert do.startswith("do not insert a token mean") and "without" not in do


def test_another_stack_is_named_where_there_is_one() -> None:
    net = TwoTowers().eval()
    do = refused(net, X, X, COUNTS)
    assert "choose blocks of another stack (--layers pictures.mlps)" in do
    edited = cbs.insert_(copy.deepcopy(net), op="cb", layers="pictures.mlps", inputs=(X, X, COUNTS))
    with torch.no_grad():
        results = zip(edited(X, X, COUNTS), by_hand(net, "pictures")(X, X, COUNTS), strict=True)
        for result, expected in results:
            torch.testing.assert_close(result, expected, atol=CLOSE, rtol=0)
