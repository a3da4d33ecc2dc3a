"""An axis of views, crops or variates beside the tokens: no mean runs over it if the model keeps them apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import CaptureError, NothingMatched

WIDTH, VIEWS, TOKENS = 16, 3, 5
CLOSE = 2e-6


class Attention(nn.Module):
    """Attention over the last but one axis; all axes before it are kept apart."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(F.scaled_dot_product_attention(q, k, v))


class Block(nn.Module):
    """``[B, V, N, D]``; ``over`` is the axes of a mean written by hand after the MLP. ``across`` mixes the views."""

    def __init__(self, across: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(3)])
        self.within, self.between = Attention(), Attention() if across else None
        self.fc1, self.fc2 = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor, over: tuple[int, ...] = ()) -> Tensor:
        x = x + self.within(self.norms[0](x))
        if self.between is not None:
            x = x + self.between(self.norms[1](x).transpose(1, 2)).transpose(1, 2)
        y = self.fc2(F.gelu(self.fc1(self.norms[2](x))))
        return x + ((y + y.mean(over, keepdim=True)) / 2 if over else y)


class Views(nn.Module):
    """Two blocks and a head; ``pool`` gives the axes that are averaged before the head."""

    def __init__(self, pool: tuple[int, ...] = (), across: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(across), Block(across)])
        self.head, self.pool = nn.Linear(WIDTH, 4), pool

    def forward(self, x: Tensor, over: tuple[int, ...] = ()) -> Tensor:
        for block in self.blocks:
            x = block(x, over)
        return self.head(x.mean(self.pool) if self.pool else x)


class Variates(nn.Module):
    """PatchTST with the variates of a series ``[B, T, V]`` on an axis of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Linear(4, WIDTH), Views(), nn.Linear(6 * 4, 2)

    def forward(self, x: Tensor, over: tuple[int, ...] = ()) -> Tensor:
        patches = x.transpose(1, 2).unflatten(2, (6, 4))
        return self.head(self.body(self.embed(patches), over).flatten(2)).transpose(1, 2)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


CASES: list[tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = [
    (Views, (VIEWS, TOKENS, WIDTH), (2,)),
    (lambda: Views(pool=(2,)), (VIEWS, TOKENS, WIDTH), (2,)),
    (lambda: Views(pool=(1, 2)), (VIEWS, TOKENS, WIDTH), (1, 2)),
    (lambda: Views(across=True), (VIEWS, TOKENS, WIDTH), (1, 2)),
    (Variates, (24, VIEWS), (2,)),
]


@pytest.mark.parametrize(("make", "shape", "over"), CASES, ids=["tokens", "scores", "pooled", "mixed", "variates"])
@pytest.mark.parametrize("on", ["module", "program"])
def test_the_mean_is_the_one_a_person_writes(
    make: Callable[[], nn.Module], shape: tuple[int, ...], over: tuple[int, ...], on: str
) -> None:
    torch.manual_seed(0)
    module = make().eval()
    model = cbs.Model(module, (noise(2, *shape),))
    found = cbs.inspect(model)
    assert [block.token_axes for block in found.blocks] == [over] * 2
    edited = cbs.insert(model, cbs.plan(found, op="cb", layers="all", pos="end"), on=on)
    run = edited.module if on == "module" else edited.program.module()
    x = noise(3, *shape)
    with torch.no_grad():
        got, expected, plain = run(x), module(x, over), module(x)
    assert (got - expected).abs().max() < CLOSE
    assert (got - plain).abs().max() > 100 * CLOSE


def test_no_view_learns_of_another() -> None:
    """The gradient of the scores of one view with respect to the others stays exactly zero."""
    torch.manual_seed(0)
    module = Views(pool=(2,)).eval()
    model = cbs.Model(module, (noise(2, VIEWS, TOKENS, WIDTH),))
    edited = cbs.insert(model, cbs.plan(cbs.inspect(model), op="cb", layers="all")).module
    x = noise(2, VIEWS, TOKENS, WIDTH).requires_grad_()
    edited(x)[:, 0].sum().backward()
    assert x.grad is not None and x.grad[:, 0].abs().min() > 0 and not x.grad[:, 1:].any()


class Flat(nn.Module):
    """Views and tokens share an axis inside the MLP, so that the tokens of one view have no axis of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.within = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Attention()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.within(self.norm1(x))
        y = self.fc2(F.gelu(self.fc1(self.norm2(x).flatten(1, 2))))
        return x + y.unflatten(1, (VIEWS, TOKENS))


def test_views_that_share_an_axis_with_tokens_are_refused() -> None:
    model = cbs.Model(Flat().eval(), (noise(2, VIEWS, TOKENS, WIDTH),))
    (block,) = cbs.inspect(model).blocks
    assert "mid" not in block.sites and "end" not in block.sites
    assert "share an axis with the tokens" in block.unavailable["end"]


def test_without_weights_nothing_is_assumed() -> None:
    """The structure allows for two readings, and a run that would decide is not possible."""
    with torch.device("meta"):
        model = cbs.Model(Views(pool=(2,)).eval(), (torch.empty(2, VIEWS, TOKENS, WIDTH, device="meta"),))
    found = cbs.inspect(model)
    assert all("hold no values" in block.unavailable["end"] for block in found.blocks)
    with pytest.raises(NothingMatched):
        cbs.plan(found, op="cb", layers="all")


class Mapped(nn.Module):
    """Means of growing prefixes under ``torch.vmap``, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.vmap(lambda y: torch.stack([y[: i + 1].mean(0) for i in range(TOKENS)]))(x)
        return x + self.fc2(F.gelu(self.fc1(x)))


def test_a_graph_that_cannot_be_run_is_refused() -> None:
    with pytest.raises(CaptureError) as caught:
        cbs.inspect(cbs.Model(Mapped().eval(), (noise(2, TOKENS, WIDTH),)))
    assert caught.value.code == "CB-CAPTURE-09" and "vmap" in caught.value.do
