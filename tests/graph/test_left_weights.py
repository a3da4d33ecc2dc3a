"""Projections of tokens whose weight is the left factor of a product, ``weight @ x``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.models.model import Model

TOKENS, WIDTH, HIDDEN = 5, 8, 12
CLOSE = 1e-6
"""Absolute, on outputs of order one in float32."""


class Mixer(nn.Module):
    """A token MLP by ``weight @ x``, and a channel MLP; optionally with the mean of Context Broadcasting by hand."""

    by_hand = False

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(WIDTH)
        self.first, self.second = (nn.Parameter(torch.randn(s) / 3) for s in ((HIDDEN, TOKENS), (TOKENS, HIDDEN)))
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = self.second @ F.gelu(self.first @ self.norm(x))
        x = x + ((y + y.mean(1, keepdim=True)) / 2 if self.by_hand else y)
        return x + self.mlp(x)


def test_a_token_mlp_of_left_products() -> None:
    x = torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    model = Model(Mixer().eval(), (x,))
    found = cbs.inspect(model)
    assert [(str(block.kind), block.tokens, block.channels, block.hidden) for block in found.blocks] == [
        ("token-mlp", TOKENS, WIDTH, HIDDEN),
        ("mlp", TOKENS, WIDTH, 16),
    ]
    recipe = cbs.plan(found, op="cb", layers="all", kinds=["token-mlp"])
    assert [(site.token_axes, site.channel_axis, site.batch_axes) for site in recipe.sites] == [((1,), 2, (0,))]
    edited = cbs.insert(model, recipe, on="program")
    assert edited.program is not None
    reference = Mixer().eval()
    reference.by_hand = True
    assert torch.allclose(edited.program.module()(x), reference(x), atol=CLOSE)
