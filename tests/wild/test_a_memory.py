"""Tokens that do not see each other and read another sequence: in an order, without their own position, or all of it.

The reference runs the network itself: tokens of the input are changed one by one, and outputs are compared.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import SurgeryError
from tests.wild.test_a_order import LOWER, TOKENS, WIDTH, Mlp, noise, sees

ALL, SELF = torch.ones(TOKENS, TOKENS), torch.eye(TOKENS)
SHUFFLED = torch.tensor([3, 7, 0, 5, 1, 8, 2, 6, 4])
NEAR = ((torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)).abs() < 2).float()


class Reader(nn.Module):
    """Queries read the memory; ``seen`` of ``[queries, keys]`` is one where they see it."""

    def __init__(self, seen: Tensor) -> None:
        super().__init__()
        self.norm, self.seen = nn.LayerNorm(WIDTH), seen
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        weights = (self.q(self.norm(x)) @ self.k(memory).mT / 3).exp() * self.seen
        return x + self.out(weights / (weights.sum(-1, keepdim=True) + 1e-9) @ self.v(memory))


@torch.library.custom_op("wild::read", mutates_args=())
def read(weights: Tensor, memory: Tensor) -> Tensor:
    """Weighted sum of the memory; an operator without a derivative."""
    return weights / (weights.sum(-1, keepdim=True) + 1e-9) @ memory


@read.register_fake
def _(weights: Tensor, memory: Tensor) -> Tensor:
    return memory.new_empty(memory.shape[0], weights.shape[-2], memory.shape[-1])


class OwnOperator(Reader):
    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        weights = (self.q(self.norm(x)) @ self.k(memory).mT / 3).exp() * self.seen
        return x + self.out(read(weights, self.v(memory)))


class Queries(nn.Module):
    """Two layers: positions read the embedded tokens, and each other where ``own`` is one."""

    def __init__(self, seen: Tensor, own: Tensor | None = None, reader: type[Reader] = Reader) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.places = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.readers = nn.ModuleList([reader(seen), reader(seen)])
        self.mixers = nn.ModuleList([Reader(own), Reader(own)] if own is not None else [])
        self.mlps = nn.ModuleList([Mlp(), Mlp()])

    def forward(self, x: Tensor) -> Tensor:
        memory, y = self.embed(x), self.places.expand(len(x), -1, -1)
        for place, (reader, mlp) in enumerate(zip(self.readers, self.mlps, strict=True)):
            y = reader(y, memory)
            for mixer in self.mixers[place : place + 1]:
                y = mixer(y, F.layer_norm(y, (WIDTH,)))
            y = mlp(y)
        return y


def model(seen: Tensor, own: Tensor | None = None, reader: type[Reader] = Reader) -> tuple[cbs.Model, Tensor]:
    module = Queries(seen, own, reader).eval()
    return cbs.Model(module, (noise(TOKENS, WIDTH),)), sees(module, noise(TOKENS, WIDTH)).all(0)


@pytest.mark.parametrize("seen", [LOWER, torch.ones(TOKENS, TOKENS).tril(-1)])
def test_a_memory_that_is_read_in_order_takes_the_causal_form(seen: Tensor) -> None:
    given, shown = model(seen)
    assert torch.equal(shown, seen.T.bool())
    found = cbs.inspect(given)
    with pytest.raises(SurgeryError, match="each sees more of linear than the one before") as refused:
        cbs.plan(found, op="cb", layers="all")
    assert refused.value.code == "CB-LEAK-01"
    edited = cbs.insert(given, cbs.plan(found, op="cb", layers="all", causal=True)).module
    after = sees(edited, noise(TOKENS, WIDTH))
    assert not bool(after[:, seen.T == 0].any())


@pytest.mark.parametrize("seen", [1 - SELF, (SHUFFLED[:, None] >= SHUFFLED).float(), LOWER.T])
def test_a_memory_that_is_read_otherwise_is_refused_in_every_form(seen: Tensor) -> None:
    given, shown = model(seen)
    assert torch.equal(shown, seen.T.bool())
    found = cbs.inspect(given)
    for options in ({}, {"causal": True}):
        with pytest.raises(SurgeryError, match="see different parts of linear") as refused:
            cbs.plan(found, op="cb", layers="all", options=options)
        assert refused.value.code == "CB-LEAK-10"


@pytest.mark.parametrize(("seen", "own"), [(ALL, None), (NEAR, None), (SELF, None), (LOWER, ALL)])
def test_a_memory_of_which_nothing_is_hidden_is_free(seen: Tensor, own: Tensor | None) -> None:
    given, shown = model(seen, own)
    assert torch.equal(shown, shown.T)
    assert len(cbs.plan(cbs.inspect(given), op="cb", layers="all")) == 2


@pytest.mark.parametrize(("seen", "code"), [(LOWER, "CB-LEAK-01"), (1 - SELF, "CB-LEAK-10"), (ALL, "")])
def test_a_memory_that_is_read_by_an_operator_without_a_derivative(seen: Tensor, code: str) -> None:
    given, shown = model(seen, reader=OwnOperator)
    assert torch.equal(shown, seen.T.bool())
    found = cbs.inspect(given)
    if not code:
        assert len(cbs.plan(found, op="cb", layers="all")) == 2
        return
    with pytest.raises(SurgeryError) as refused:
        cbs.plan(found, op="cb", layers="all")
    assert refused.value.code == code
