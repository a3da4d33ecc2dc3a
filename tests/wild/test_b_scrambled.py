"""Tokens of several samples on one axis, in an order from which the sample of a token cannot be determined: there is no
site.

A mean over such an axis would run over samples. Kept orders are the control: there the mean is the one by hand.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.graph.reasons import Reason

WIDTH, TOKENS, SAMPLES = 8, 9, 3
CLOSE = 1e-5
"""Absolute, on outputs of order one in float32."""


class Layers(nn.Module):
    """Attention within each sample; a subclass says on which axis the MLP finds its tokens."""

    by_hand = False

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        for qkv, mlp in zip(self.qkv, self.mlps, strict=True):
            q, k, v = qkv(x).chunk(3, -1)
            x = self.step(x + nn.functional.scaled_dot_product_attention(q, k, v), mlp)
        return x

    def step(self, x: Tensor, mlp: nn.Module) -> Tensor:
        raise NotImplementedError


class Sorted(Layers):
    """Sorted by a value, as tokens are sent to experts."""

    def step(self, x: Tensor, mlp: nn.Module) -> Tensor:
        flat = x.flatten(0, 1)
        order = flat[:, 0].argsort()
        sent = flat[order]
        return torch.zeros_like(flat).index_copy(0, order, sent + mlp(sent)).view_as(x)


class Selected(Layers):
    """The same by ``index_select``."""

    def step(self, x: Tensor, mlp: nn.Module) -> Tensor:
        flat = x.flatten(0, 1)
        order = flat[:, 0].argsort()
        sent = flat.index_select(0, order)
        return (sent + mlp(sent))[order.argsort()].view_as(x)


class WithoutTheFirst(Layers):
    """All rows but the first."""

    def step(self, x: Tensor, mlp: nn.Module) -> Tensor:
        flat = x.flatten(0, 1)
        return torch.cat([flat[:1], flat[1:] + mlp(flat[1:])]).view_as(x)


class ClassTokensBehind(Layers):
    """The first tokens of all samples, after the other tokens of all samples."""

    def step(self, x: Tensor, mlp: nn.Module) -> Tensor:
        samples, tokens = x.shape[0], x.shape[1] - 1
        rows = torch.cat([x[:, 1:].reshape(-1, WIDTH), x[:, 0]])
        rows = rows + mlp(rows)
        rest = samples * tokens
        return torch.cat([rows[rest:].unsqueeze(1), rows[:rest].view(samples, tokens, WIDTH)], 1)


class Unpadded(Layers):
    """The rows a mask picks, of all samples together."""

    def step(self, x: Tensor, mlp: nn.Module) -> Tensor:
        chosen = x[..., 0] > -0.5
        rows = x[chosen]
        return torch.zeros_like(x).masked_scatter(chosen[..., None].expand_as(x), rows + mlp(rows))


@pytest.mark.parametrize("kind", [Sorted, Selected, WithoutTheFirst, ClassTokensBehind, Unpadded])
def test_no_operator_can_stand_there(kind: type[Layers]) -> None:
    found = cbs.inspect(cbs.Model(kind().eval(), (torch.randn(SAMPLES, TOKENS, WIDTH),)))
    assert not found.blocks
    assert {one.reason for one in found.rejected[:2]} <= {Reason.NO_TOKEN_AXIS, Reason.TOKENS_FOLDED}
    assert len(found.rejected) >= 2


class Repeated(Layers):
    """Every sample twice: each copy is a sample of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.repeat(2, 1, 1)).view(2, -1, TOKENS, WIDTH).mean(0)

    def step(self, x: Tensor, mlp: nn.Module) -> Tensor:
        y = mlp(x)
        return x + ((y + y.mean(1, keepdim=True)) / 2 if self.by_hand else y)


class Flat(Layers):
    """The tokens of one sample after those of another, in order."""

    def step(self, x: Tensor, mlp: nn.Module) -> Tensor:
        flat = x.flatten(0, 1)
        y = mlp(flat).view_as(x)
        return flat.view_as(x) + ((y + y.mean(1, keepdim=True)) / 2 if self.by_hand else y)


@pytest.mark.parametrize("kind", [Repeated, Flat])
def test_where_the_order_is_kept_the_mean_is_that_of_each_sample(kind: type[Layers]) -> None:
    module, x = kind().eval(), torch.randn(SAMPLES, TOKENS, WIDTH)
    model = cbs.Model(module, (x,))
    edited = cbs.insert(model, cbs.plan(cbs.inspect(model), op="cb", layers="all")).module
    module.by_hand = True
    with torch.no_grad():
        assert torch.allclose(edited(x), module(x), atol=CLOSE)
