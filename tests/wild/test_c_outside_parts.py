"""Models that are read in parts: code in front of the first block and behind the last one that hides tokens.

The reference runs the model itself: tokens are changed one by one, and the outputs of the others are compared.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import SurgeryError

WIDTH, TOKENS, SAMPLES = 8, 9, 3
MOVED = 1e-6
"""Of outputs of order one in float32; a mean over nine tokens moves by 1e-2."""


class Part(nn.Module):
    """A residual MLP; ``by_hand`` writes the operator into it."""

    by_hand = False

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(x)
        return x + ((y + y.mean(1, keepdim=True)) / 2 if self.by_hand else y)


Mix = Callable[["Network", Tensor, Tensor | None], Tensor]


class Network(nn.Module):
    """Two MLPs with code in front and behind. A value decides, which ``torch.export`` cannot follow."""

    def __init__(self, front: Mix | None = None, behind: Mix | None = None, words: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.front, self.behind, self.words = front, behind, nn.Embedding(20, WIDTH) if words else None
        self.rnn, self.two_ways = (nn.GRU(WIDTH, WIDTH // n, batch_first=True, bidirectional=n == 2) for n in (1, 2))
        self.parts, self.out = nn.Sequential(Part(), Part()), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, given: Tensor | None = None) -> Tensor:
        x = x if self.words is None else self.words(x)
        if not float(x.abs().sum()) > 0:
            raise ValueError("no tokens")
        x = x if self.front is None else self.front(self, x, given)
        x = self.parts(x)
        return self.out(x if self.behind is None else self.behind(self, x, given))


def running(_: Network, x: Tensor, given: Tensor | None) -> Tensor:
    return x.cumsum(1) / 3


def recurrent(network: Network, x: Tensor, given: Tensor | None) -> Tensor:
    return network.rnn(x)[0]


def backwards(_: Network, x: Tensor, given: Tensor | None) -> Tensor:
    return x.flip(1).cumsum(1).flip(1) / 3


def queries_in_front(_: Network, x: Tensor, given: Tensor | None) -> Tensor:
    """The first three tokens read the others and themselves; the others read the others."""
    return x + x[:, 3:].mean(1, keepdim=True)


def whole(_: Network, x: Tensor, given: Tensor | None) -> Tensor:
    return x + x.mean(1, keepdim=True)


def pooled(_: Network, x: Tensor, given: Tensor | None) -> Tensor:
    return x.mean(1)


def kept(_: Network, x: Tensor, given: Tensor | None) -> Tensor:
    assert given is not None
    return (x * given[..., None]).sum(1) / given.sum(1, keepdim=True)


def up_to_length(_: Network, x: Tensor, given: Tensor | None) -> Tensor:
    assert given is not None
    return torch.stack([tokens[:length].mean(0) for tokens, length in zip(x, given.tolist(), strict=True)])


def packed(network: Network, x: Tensor, given: Tensor | None) -> Tensor:
    assert given is not None
    rows = nn.utils.rnn.pack_padded_sequence(x, given, batch_first=True, enforce_sorted=False)
    return nn.utils.rnn.pad_packed_sequence(network.two_ways(rows)[0], batch_first=True, total_length=TOKENS)[0]


def noise() -> Tensor:
    return torch.randn(SAMPLES, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


def numbers() -> Tensor:
    return torch.randint(1, 19, (SAMPLES, TOKENS), generator=torch.Generator().manual_seed(1))


def sees(module: nn.Module, x: Tensor) -> Tensor:
    """``[changed, moved]``."""
    with torch.no_grad():
        plain, rows = module(x), []
        for token in range(TOKENS):
            changed = x.clone()
            changed[:, token] = changed[:, token] + 1
            rows.append((module(changed) - plain).abs().amax((0, 2)) > MOVED)
    return torch.stack(rows)


CAUSAL: dict[str, Callable[[], Network]] = {
    "in-front": lambda: Network(front=running),
    "recurrent": lambda: Network(front=recurrent),
    "behind": lambda: Network(behind=running),
    "words": lambda: Network(front=running, words=True),
}


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_code_outside_the_parts_allows_the_causal_form_alone(name: str) -> None:
    module = CAUSAL[name]().eval()
    x = noise() if module.words is None else numbers()
    assert torch.equal(sees(module, x), torch.ones(TOKENS, TOKENS).triu().bool())
    model = cbs.Model(module, (x,))
    found = cbs.inspect(model)
    with pytest.raises(SurgeryError, match="outside the captured parts") as raised:
        cbs.plan(found, op="cb", layers="all")
    assert raised.value.code == "CB-LEAK-01"
    edited = cbs.insert(model, cbs.plan(found, op="cb", layers="all", options={"causal": True})).module
    assert not (sees(edited, x) & ~sees(module, x)).any()


@pytest.mark.parametrize("place", ["front", "behind"])
@pytest.mark.parametrize("mix", [backwards, queries_in_front])
def test_hidden_earlier_tokens_are_refused_in_every_form(place: str, mix: Mix) -> None:
    module = Network(**{place: mix}).eval()
    seen = sees(module, noise())
    assert bool((seen.T & ~seen).triu(1).any()), "an earlier token must see a later one that does not see it"
    found = cbs.inspect(cbs.Model(module, (noise(),)))
    for options in ({}, {"causal": True}):
        with pytest.raises(SurgeryError) as raised:
            cbs.plan(found, op="cb", layers="all", options=options)
        assert raised.value.code == "CB-LEAK-10"


MASK, LENGTHS = torch.ones(SAMPLES, TOKENS), torch.full((SAMPLES,), TOKENS)
PADDED: dict[str, tuple[Callable[[], Network], Tensor]] = {
    "mask": (lambda: Network(behind=kept), MASK),
    "lengths": (lambda: Network(behind=up_to_length), LENGTHS),
    "packed": (lambda: Network(front=packed), LENGTHS),
}


@pytest.mark.parametrize("name", PADDED)
def test_padding_outside_the_parts_is_refused(name: str) -> None:
    make, full = PADDED[name]
    module, x = make().eval(), noise()
    fewer = full * (torch.arange(TOKENS) < 6) if full.dim() == 2 else full - 3
    other = torch.cat([x[:, :6], x[:, 6:] + 1], 1)
    with torch.no_grad():
        assert torch.equal(module(x, fewer)[:, :6], module(other, fewer)[:, :6]), "the last tokens must be hidden"
        assert not torch.allclose(module(x, full)[:, :6], module(other, full)[:, :6])
    found = cbs.inspect(cbs.Model(module, (x, full)))
    assert len(found.blocks) == 2
    with pytest.raises(SurgeryError, match="given") as raised:
        cbs.plan(found, op="cb", layers="all")
    assert raised.value.code == "CB-LEAK-02"


@pytest.mark.parametrize("where", [{"front": whole}, {"behind": whole}, {"behind": pooled}])
def test_open_code_outside_the_parts_is_free(where: dict[str, Mix]) -> None:
    module, x = Network(**where).eval(), noise()
    model = cbs.Model(module, (x,))
    edited = cbs.insert(model, cbs.plan(cbs.inspect(model), op="cb", layers="all")).module
    for part in module.parts:
        part.by_hand = True
    with torch.no_grad():
        assert torch.allclose(edited(x), module(x), atol=MOVED)


def test_an_output_that_starts_at_zero_is_no_excuse() -> None:
    module = Network(behind=running).eval()
    nn.init.zeros_(module.out.weight)
    nn.init.zeros_(module.out.bias)
    with pytest.raises(SurgeryError):
        cbs.plan(cbs.inspect(cbs.Model(module, (noise(),))), op="cb", layers="all")
