"""Mixtures of experts and hyper-connections: found where tokens are whole, or refused with the cause.

The references are the networks themselves with the operator written behind the experts by hand.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import NothingMatched
from tests.wild import experts
from tests.wild.experts import LENGTH, WIDTH, Network

CLOSE = 1e-5
"""Absolute, on outputs of order one in float32: what two blocks round is about 1e-6."""


def noise(batch: int = 2) -> Tensor:
    return torch.randn(batch, LENGTH, WIDTH, generator=torch.Generator().manual_seed(batch))


def averaged(y: Tensor) -> Tensor:
    return (y + y.mean(1, keepdim=True)) / 2


def built(make: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return Network(make).eval()


@pytest.mark.thin(3)
@pytest.mark.parametrize("make", [experts.Dense, experts.TopK, experts.Summed])
def test_experts_that_see_all_tokens_end_at_their_weighted_sum(make: type[nn.Module]) -> None:
    module = built(make)
    model = cbs.Model(module, (noise(),))
    found = cbs.inspect(model)
    assert [(block.path, block.tokens, list(block.sites)) for block in found.blocks] == [
        (f"blocks.{i}.experts", LENGTH, ["end"]) for i in range(2)
    ]
    assert all("experts" in block.unavailable["front"] + block.unavailable["mid"] for block in found.blocks)
    recipe = cbs.plan(found, op="cb", layers="all")
    for edited in (cbs.insert(model, recipe).module, cbs.insert(model, recipe, on="program").program.module()):
        for batch in (2, 3):
            x = noise(batch)
            assert torch.allclose(edited(x), module(x, averaged), atol=CLOSE)
            assert not torch.allclose(edited(x), module(x), atol=100 * CLOSE)


def test_experts_added_up_one_by_one_are_chosen_on_request_alone() -> None:
    found = cbs.inspect(cbs.Model(built(experts.Modules), (noise(),)))
    assert [block.default for block in found.blocks] == [False] * 6
    assert all("router" in block.notes[-1] for block in found.blocks)
    with pytest.raises(NothingMatched):
        cbs.plan(found, op="cb", layers="all")


@pytest.mark.parametrize(
    ("make", "reason", "step"),
    [
        (experts.Stacked, "not-elementwise", "sum"),
        (experts.Dispatched, "several-weights", "einsum"),
        (experts.Gathered, "routed", "einsum"),
        (experts.Sorted, "routed", "index_copy"),
        (experts.Fetched, "routed", "index_add"),
    ],
)
def test_experts_that_do_not_see_all_tokens_are_refused_with_the_step(
    make: type[nn.Module], reason: str, step: str
) -> None:
    found = cbs.inspect(cbs.Model(built(make), (noise(),)))
    assert not found.blocks
    assert any(one.reason == reason and step in one.detail for one in found.rejected)
    with pytest.raises(NothingMatched):
        cbs.plan(found, op="cb", layers="all")


class Hyper(nn.Module):
    """Copies of the stream, made in a subclass's way; a layer reads a weighted sum and writes to all."""

    class Layer(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.norm, self.layer = nn.LayerNorm(WIDTH), layer
            self.read, self.write = nn.Parameter(torch.rand(3)), nn.Parameter(torch.rand(3))
            self.mix = nn.Parameter(torch.eye(3) + 0.1)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.Layer(experts.Mlp()) for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)


class CopiesLast(Hyper):
    """``[B, N, copies, D]``, expanded, read by a product and a sum."""

    def forward(self, x: Tensor, by_hand: bool = False) -> Tensor:
        h = x[:, :, None].expand(-1, -1, 3, -1)
        for one in self.layers:
            y = one.layer(one.norm((h * one.read[:, None]).sum(2)))
            y = averaged(y) if by_hand else y
            h = torch.einsum("blnd,nm->blmd", h, one.mix) + y[:, :, None] * one.write[:, None]
        return self.norm(h.sum(2))


class CopiesFirst(Hyper):
    """``[B, copies, N, D]``, repeated, mixed by a matrix product."""

    def forward(self, x: Tensor, by_hand: bool = False) -> Tensor:
        h = x[:, None].repeat(1, 3, 1, 1)
        for one in self.layers:
            y = one.layer(one.norm(torch.einsum("bnld,n->bld", h, one.read)))
            y = averaged(y) if by_hand else y
            h = torch.einsum("nm,bnld->bmld", one.mix, h) + y[:, None] * one.write[:, None, None]
        return self.norm(h.sum(1))


class StackedCopies(Hyper):
    """The copies are stacked."""

    def forward(self, x: Tensor, by_hand: bool = False) -> Tensor:
        h = torch.stack([x, x, x], -1)
        for one in self.layers:
            y = one.layer(one.norm(h @ one.read))
            y = averaged(y) if by_hand else y
            h = h @ one.mix + y[..., None] * one.write
        return self.norm(h.mean(-1))


@pytest.mark.parametrize("make", [CopiesLast, CopiesFirst, StackedCopies])
def test_copies_of_a_stream_are_no_tokens(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = make().eval()
    model = cbs.Model(module, (noise(),))
    found = cbs.inspect(model)
    assert [(block.path, block.tokens) for block in found.blocks] == [(f"layers.{i}.layer", LENGTH) for i in range(2)]
    recipe = cbs.plan(found, op="cb", layers="all")
    for edited in (cbs.insert(model, recipe).module, cbs.insert(model, recipe, on="program").program.module()):
        x = noise(3)
        assert torch.allclose(edited(x), module(x, by_hand=True), atol=CLOSE)
        assert not torch.allclose(edited(x), module(x), atol=100 * CLOSE)


class ComputedWeights(Hyper):
    """The weights with which copies are mixed, read and written are computed from the copies."""

    def weights(self, one: nn.Module, h: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, N, copies, 1 + copies]`` to read and mix, ``[B, N, copies]`` to write."""
        mean = h.mean(-1).tanh()
        return mean[..., None] + torch.cat([one.read[:, None], one.mix], 1), mean + one.write

    def forward(self, x: Tensor, by_hand: bool = False) -> Tensor:
        h = self.opened(x)
        for one in self.layers:
            weights, write = self.weights(one, h)
            mixed = self.mixed(h, weights)
            y = one.layer(one.norm(mixed[:, :, 0]))
            y = averaged(y) if by_hand else y
            h = mixed[:, :, 1:] + self.written(y, write)
        return self.norm(h.sum(2))

    def opened(self, x: Tensor) -> Tensor:
        return x[:, :, None].expand(-1, -1, 3, -1)

    def mixed(self, h: Tensor, weights: Tensor) -> Tensor:
        return torch.einsum("blnd,blnm->blmd", h, weights)

    def written(self, y: Tensor, write: Tensor) -> Tensor:
        return y[:, :, None] * write[..., None]


class EllipsisWeights(ComputedWeights):
    """The published code: an equation with ``...``, and an outer product as another equation."""

    def mixed(self, h: Tensor, weights: Tensor) -> Tensor:
        return torch.einsum("...st,...sd->...td", weights, h)

    def written(self, y: Tensor, write: Tensor) -> Tensor:
        return torch.einsum("bnd,bns->bnsd", y, write)


class ProductWeights(ComputedWeights):
    """A matrix product mixes the copies; their weights are normalised, and the copies share the axis of the samples."""

    def opened(self, x: Tensor) -> Tensor:
        folded = x[:, None].expand(-1, 3, -1, -1).flatten(0, 1)
        return folded.unflatten(0, (-1, 3)).transpose(1, 2)

    def weights(self, one: nn.Module, h: Tensor) -> tuple[Tensor, Tensor]:
        mix, write = super().weights(one, h)
        return mix.softmax(-1), 2 * write.sigmoid()

    def mixed(self, h: Tensor, weights: Tensor) -> Tensor:
        return weights.transpose(-1, -2) @ h


@pytest.mark.parametrize("make", [ComputedWeights, EllipsisWeights, ProductWeights])
def test_copies_whose_weights_are_computed_are_no_tokens(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = make().eval()
    model = cbs.Model(module, (noise(),))
    found = cbs.inspect(model)
    assert [(block.path, block.tokens) for block in found.blocks] == [(f"layers.{i}.layer", LENGTH) for i in range(2)]
    assert not [one for one in found.rejected if one.reason == "linear-attention"]
    recipe = cbs.plan(found, op="cb", layers="all")
    for edited in (cbs.insert(model, recipe).module, cbs.insert(model, recipe, on="program").program.module()):
        x = noise(3)
        assert torch.allclose(edited(x), module(x, by_hand=True), atol=CLOSE)
        assert not torch.allclose(edited(x), module(x), atol=100 * CLOSE)


class Decoder(nn.Module):
    """One vector is repeated as tokens, which get positions and attend to each other: tokens, not copies."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, batch_first=True, norm_first=True) for _ in range(2)
        )

    def forward(self, x: Tensor, by_hand: bool = False) -> Tensor:
        h = x.mean(1, keepdim=True).expand(-1, LENGTH, -1) + self.positions
        for layer in self.layers:
            h = h + layer._sa_block(layer.norm1(h), None, None)
            y = layer.linear2(layer.activation(layer.linear1(layer.norm2(h))))
            h = h + (averaged(y) if by_hand else y)
        return h


def test_one_vector_repeated_as_tokens_makes_no_copies() -> None:
    torch.manual_seed(0)
    module = Decoder().eval()
    model = cbs.Model(module, (noise(),))
    edited = cbs.insert(model, op="cb", layers="all").module
    x = noise(3)
    assert torch.allclose(edited(x), module(x, by_hand=True), atol=CLOSE)
    assert not torch.allclose(edited(x), module(x), atol=100 * CLOSE)


def test_an_expanded_norm_makes_no_copies() -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = experts.Mlp()

        def forward(self, x: Tensor) -> Tensor:
            return x + self.mlp(nn.functional.normalize(x, dim=-1))

    found = cbs.inspect(cbs.Model(nn.Sequential(Normalised(), Normalised()).eval(), (noise(),)))
    assert [(block.path, block.tokens) for block in found.blocks] == [("0.mlp", LENGTH), ("1.mlp", LENGTH)]
