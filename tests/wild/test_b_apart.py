"""An axis of views, crops or variates beside the tokens: a mean runs over both, with a note if the model never does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import CaptureError
from cbsurgeon.verbs.results import cautions

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


CASES: list[tuple[Callable[[], nn.Module], tuple[int, ...], int]] = [
    (Views, (VIEWS, TOKENS, WIDTH), VIEWS),
    (lambda: Views(pool=(2,)), (VIEWS, TOKENS, WIDTH), VIEWS),
    (lambda: Views(pool=(1, 2)), (VIEWS, TOKENS, WIDTH), 0),
    (lambda: Views(across=True), (VIEWS, TOKENS, WIDTH), 0),
    (Variates, (24, VIEWS), VIEWS),
]


@pytest.mark.parametrize(("make", "shape", "apart"), CASES, ids=["tokens", "scores", "pooled", "mixed", "variates"])
def test_a_note_says_that_the_mean_mixes_what_the_model_keeps_apart(
    make: Callable[[], nn.Module], shape: tuple[int, ...], apart: int
) -> None:
    """The note is there exactly if the gradient of one position with respect to another is zero before, not after."""
    torch.manual_seed(0)
    module = make().eval()
    model = cbs.Model(module, (noise(2, *shape),))
    found = cbs.inspect(model)
    recipe = cbs.plan(found, op="cb", layers="all")
    edited = cbs.insert(model, recipe).module
    x = noise(3, *shape)
    with torch.no_grad():
        assert (edited(x) - module(x, (1, 2))).abs().max() < CLOSE
    views = 2 if len(shape) == 2 else 1
    crossed = []
    for network in (module, edited):
        x = noise(2, *shape).requires_grad_()
        result = network(x)
        result.select(views, 0).sum().backward() if result.dim() > 2 else result.sum().backward()
        assert x.grad is not None
        crossed.append(bool(x.grad.narrow(views, 1, VIEWS - 1).any()))
    assert crossed == [not apart, True]
    said = [note for note in (*found.blocks[0].notes, *cautions(recipe, found)) if "keeps apart" in note]
    assert len(said) == (2 if apart else 0) and all(f"mixes {apart} positions" in note for note in said)


class Joined(nn.Module):
    """Views in one row of tokens, ``[B, V * N, D]``: attention within a view (``across``: over all), an MLP for all."""

    def __init__(self, *, across: bool) -> None:
        super().__init__()
        self.within = nn.ModuleList([Attention(), Attention()])
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH)) for _ in range(2)
        )
        self.across = across

    def forward(self, x: Tensor) -> Tensor:
        for within, mlp in zip(self.within, self.mlps, strict=True):
            y = x if self.across else x.unflatten(1, (VIEWS, TOKENS))
            x = x + within(y).view_as(x)
            x = x + mlp(x)
        return x


@pytest.mark.parametrize("across", [False, True])
def test_views_in_one_row_of_tokens_are_noticed(across: bool) -> None:
    torch.manual_seed(0)
    module = Joined(across=across).eval()
    model = cbs.Model(module, (noise(2, VIEWS * TOKENS, WIDTH),))
    found = cbs.inspect(model)
    recipe = cbs.plan(found, op="cb", layers="all")
    crossed = []
    for network in (module, cbs.insert(model, recipe).module):
        x = noise(2, VIEWS * TOKENS, WIDTH).requires_grad_()
        network(x)[:, :TOKENS].sum().backward()
        assert x.grad is not None
        crossed.append(bool(x.grad[:, TOKENS:].any()))
    assert crossed == [across, True]
    said = [note for note in (*found.blocks[0].notes, *cautions(recipe, found)) if "keeps apart" in note]
    assert len(said) == (0 if across else 2) and all(f"mixes {VIEWS} groups of tokens" in note for note in said)


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
