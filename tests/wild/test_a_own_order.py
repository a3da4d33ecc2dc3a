"""Orders that each layer computes from its own tokens, and layers that sort or choose tokens without such an order.

The reference runs one layer in float64: each token is changed so little that no order changes, and outputs
are compared.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import SurgeryError

WIDTH, TOKENS = 16, 9
SHIFT, MOVED = 1e-6, 1e-13
"""A change that is far smaller than the gaps between scores, and what it moves at least in float64."""

SELF, LOWER, ALL = torch.eye(TOKENS).bool(), torch.ones(TOKENS, TOKENS).tril(), torch.ones(TOKENS, TOKENS)


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.score, self.rnn = nn.Linear(WIDTH, 1), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.router, self.experts = nn.Linear(WIDTH, 3), nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(3)])

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.qkv(x).chunk(3, -1)
        return (q @ k.transpose(-2, -1) / 4).exp(), v

    def attend(self, x: Tensor, seen: Tensor) -> Tensor:
        """``seen``: ``[..., queries, keys]``, one for a key that is seen."""
        weights, v = self.weights(x)
        weights = weights * seen.to(x.dtype)
        return self.out(weights / (weights.sum(-1, keepdim=True) + 1e-9) @ v)

    def scores(self, x: Tensor) -> Tensor:
        return self.score(x)[..., 0]

    def of_experts(self, x: Tensor) -> Tensor:
        chosen = self.router(x).topk(1, -1).indices
        return sum((expert(x) * (chosen == place) for place, expert in enumerate(self.experts)), torch.zeros(()).to(x))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


Mix = Callable[[Mixer, Tensor], Tensor]


class Network(nn.Module):
    """Layers of a mixer and an MLP; side by side if ``parallel``. ``others`` mix in all layers but the last."""

    def __init__(self, mix: Mix, others: Mix | None = None, layers: int = 2, parallel: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix, self.others, self.parallel = mix, others or mix, parallel
        self.mixers = nn.ModuleList([Mixer() for _ in range(layers)])
        self.mlps = nn.ModuleList([Mlp() for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        for place, (mixer, mlp) in enumerate(zip(self.mixers, self.mlps, strict=True)):
            assert isinstance(mixer, Mixer)
            y = (self.mix if place == len(self.mlps) - 1 else self.others)(mixer, mixer.norm(x))
            stream = x + y
            x = stream + mlp(x if self.parallel else stream)
        return x


def not_before(places: Tensor) -> Tensor:
    return places[:, :, None] >= places[:, None]


def ranks(mixer: Mixer, x: Tensor) -> Tensor:
    return mixer.scores(x).argsort(1).argsort(1)


def by_score(mixer: Mixer, x: Tensor) -> Tensor:
    return mixer.attend(x, not_before(mixer.scores(x)))


def fused(mixer: Mixer, x: Tensor) -> Tensor:
    q, k, v = mixer.qkv(x).chunk(3, -1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=not_before(mixer.scores(x)))


def by_chunks_of_ranks(mixer: Mixer, x: Tensor) -> Tensor:
    return mixer.attend(x, not_before(ranks(mixer, x) // 3))


def behind_a_prefix(mixer: Mixer, x: Tensor) -> Tensor:
    places = ranks(mixer, x)
    return mixer.attend(x, not_before(places) | (places[:, None] < 3))


def by_steep_sigmoid(mixer: Mixer, x: Tensor) -> Tensor:
    scores = mixer.scores(x)
    return mixer.attend(x, (1e7 * (scores[:, :, None] - scores[:, None] + 1e-5)).sigmoid())


def straight_through(mixer: Mixer, x: Tensor) -> Tensor:
    far = mixer.scores(x)[:, :, None] - mixer.scores(x)[:, None]
    return mixer.attend(x, (far >= 0).to(x) - far.sigmoid().detach() + far.sigmoid())


def by_searchsorted(mixer: Mixer, x: Tensor) -> Tensor:
    scores = mixer.scores(x).contiguous()
    return mixer.attend(x, not_before(torch.searchsorted(scores.sort(1).values, scores)))


def sorted_by_score(inner: Mix) -> Mix:
    """Tokens are sorted, mixed, and put back."""

    def mix(mixer: Mixer, x: Tensor) -> Tensor:
        order = mixer.scores(x).argsort(1)[..., None].expand_as(x)
        return torch.zeros_like(x).scatter(1, order, inner(mixer, x.gather(1, order)))

    return mix


def running_sum(mixer: Mixer, x: Tensor) -> Tensor:
    """Sorted by ``topk`` over all tokens, and put back by indexing."""
    order, row = mixer.scores(x).topk(TOKENS, 1).indices, torch.arange(len(x))[:, None]
    return mixer.out(x[row, order].cumsum(1))[row, order.argsort(1)]


def in_windows(seen: Tensor) -> Mix:
    return lambda mixer, x: mixer.attend(x.unflatten(1, (3, 3)), seen).flatten(1, 2)


def previous(mixer: Mixer, x: Tensor) -> Tensor:
    return mixer.out(x + F.pad(x, (0, 0, 1, -1)))


def whole(mixer: Mixer, x: Tensor) -> Tensor:
    return mixer.attend(x, ALL)


@torch.library.custom_op("wild::not_before", mutates_args=())
def attend_not_before(x: Tensor, scores: Tensor) -> Tensor:
    """The mean of the tokens whose score is not larger; an operator without a derivative."""
    seen = not_before(scores).to(x)
    return seen @ x / seen.sum(-1, keepdim=True)


@torch.library.custom_op("wild::whole", mutates_args=())
def attend_whole(x: Tensor, scores: Tensor) -> Tensor:
    """The mean of all tokens, weighted by their scores."""
    return (scores.softmax(-1)[:, None] @ x).expand_as(x).clone()


for operator in (attend_not_before, attend_whole):
    operator.register_fake(lambda x, scores: torch.empty_like(x))

PLAIN = torch.library.Library("wild", "FRAGMENT")
PLAIN.define("plain_not_before(Tensor x, Tensor scores) -> Tensor")
PLAIN.impl("plain_not_before", lambda x, scores: not_before(scores).to(x) @ x / TOKENS, "CPU")
PLAIN.impl("plain_not_before", lambda x, scores: torch.empty_like(x), "Meta")


def own_operator(mixer: Mixer, x: Tensor) -> Tensor:
    return mixer.out(attend_not_before(x, mixer.scores(x)))


def plain_operator(mixer: Mixer, x: Tensor) -> Tensor:
    """PyTorch takes its derivative for zero, with a warning."""
    return mixer.out(torch.ops.wild.plain_not_before(x, mixer.scores(x)))


def without_derivative(mixer: Mixer, x: Tensor) -> Tensor:
    return by_score(mixer, torch.nextafter(x, x + 1))


def inside_a_region(mixer: Mixer, x: Tensor) -> Tensor:
    def one(y: Tensor, scores: Tensor) -> Tensor:
        return not_before(scores).to(y) @ y / TOKENS

    def other(y: Tensor, scores: Tensor) -> Tensor:
        return not_before(scores).to(y) @ y / (2 * TOKENS)

    return mixer.out(torch.cond(x.sum() > 0, one, other, (x, mixer.scores(x))))


def own_open_operator(mixer: Mixer, x: Tensor) -> Tensor:
    return mixer.out(attend_whole(x, mixer.scores(x)))


ORDERED: dict[str, Callable[[], Network]] = {
    "mask": lambda: Network(by_score),
    "fused": lambda: Network(fused),
    "chunks": lambda: Network(by_chunks_of_ranks),
    "prefix": lambda: Network(behind_a_prefix),
    "steep": lambda: Network(by_steep_sigmoid),
    "straight-through": lambda: Network(straight_through),
    "searchsorted": lambda: Network(by_searchsorted),
    "triangle": lambda: Network(sorted_by_score(lambda mixer, x: mixer.attend(x, LOWER))),
    "recurrent": lambda: Network(sorted_by_score(lambda mixer, x: mixer.rnn(x)[0])),
    "sum": lambda: Network(running_sum),
    "windows": lambda: Network(sorted_by_score(in_windows(LOWER[:3, :3]))),
    "previous": lambda: Network(sorted_by_score(previous)),
    "last-layer": lambda: Network(by_score, whole, 3),
    "parallel": lambda: Network(by_score, parallel=True),
    "own-operator": lambda: Network(own_operator),
    "no-autograd": lambda: Network(plain_operator),
    "no-derivative": lambda: Network(without_derivative),
    "region": lambda: Network(inside_a_region),
}


def sees(module: nn.Module) -> Tensor:
    """``[samples, changed, moved]``: whether a very small change of one token moves another of the same sample."""
    module, x = module.double(), noise().double()
    with torch.no_grad():
        plain, rows = module(x), []
        for token in range(TOKENS):
            changed = x.clone()
            changed[:, token, ::2] += SHIFT
            rows.append((module(changed) - plain).abs().amax(2) > MOVED)
    return torch.stack(rows, 1)


def noise() -> Tensor:
    return torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.thin(2)
@pytest.mark.parametrize("name", ORDERED)
def test_an_order_that_a_layer_computes_is_refused_in_every_form(name: str) -> None:
    module = ORDERED[name]()
    seen = sees(Network(module.mix, layers=1, parallel=module.parallel).eval())
    one_way = seen & ~seen.mT
    assert bool((one_way.any(1) & one_way.any(2)).any(1).all()), "some token must be between two others"
    assert not torch.equal(seen[0], seen[1]), "the samples must have different orders"
    found = cbs.inspect(cbs.Model(module.eval(), (noise(),)))
    assert len(found.blocks) >= 2
    for options in ({}, {"causal": True}):
        with pytest.raises(SurgeryError, match="an order that is computed from their values") as refused:
            cbs.plan(found, op="cb", layers="all", options=options)
        assert refused.value.code == "CB-LEAK-10"


def strongest(count: int) -> Mix:
    """Each token sees the keys with the largest scores; these may not see it."""

    def mix(mixer: Mixer, x: Tensor) -> Tensor:
        weights, v = mixer.weights(x)
        weights = weights * (weights >= weights.topk(count, -1).values[..., -1:])
        return mixer.out(weights / weights.sum(-1, keepdim=True) @ v)

    return mix


def of_one_kind(mixer: Mixer, x: Tensor) -> Tensor:
    kind = mixer.router(x).argmax(-1)
    return mixer.attend(x, kind[:, :, None] == kind[:, None])


def hashed(mixer: Mixer, x: Tensor) -> Tensor:
    """Sorted chunks see themselves and the chunk before, and the first sees the last, as in Reformer."""
    chunks = x.unflatten(1, (3, 3))
    q, k, v = mixer.qkv(chunks).chunk(3, -1)
    k, v = (torch.cat([y, y.roll(1, 1)], 2) for y in (k, v))
    return ((q @ k.transpose(-2, -1) / 4).softmax(-1) @ v).flatten(1, 2)


def merged(mixer: Mixer, x: Tensor) -> Tensor:
    """Every other token is merged into the most similar one, and gets its result."""
    source, kept = x[:, ::2], x[:, 1::2]
    to = F.one_hot((source @ kept.mT).argmax(-1), kept.shape[1]).to(x)
    y = mixer.attend((kept + to.mT @ source) / (1 + to.sum(1)[..., None]), torch.ones(1, 1))
    return torch.stack([to @ y, F.pad(y, (0, 0, 0, 1))], 2).flatten(1, 2)[:, :TOKENS]


def both_ways(mixer: Mixer, x: Tensor) -> Tensor:
    return mixer.rnn(x)[0] + mixer.rnn(x.flip(1))[0].flip(1)


def ahead_with_experts(mixer: Mixer, x: Tensor) -> Tensor:
    return mixer.rnn(x)[0] + mixer.of_experts(x)


def back_with_experts(mixer: Mixer, x: Tensor) -> Tensor:
    return mixer.rnn(x.flip(1))[0].flip(1) + mixer.of_experts(x)


FREE: dict[str, Callable[[], Network]] = {
    "experts": lambda: Network(lambda mixer, x: whole(mixer, x) + mixer.of_experts(x)),
    "two-strongest": lambda: Network(strongest(2)),
    "three-strongest": lambda: Network(strongest(3)),
    "six-strongest": lambda: Network(strongest(6)),
    "clusters": lambda: Network(of_one_kind),
    "hashed": lambda: Network(sorted_by_score(hashed)),
    "merged": lambda: Network(merged),
    "sorted": lambda: Network(sorted_by_score(whole)),
    "sorted-windows": lambda: Network(sorted_by_score(in_windows(ALL[:3, :3]))),
    "sorted-both-ways": lambda: Network(sorted_by_score(both_ways)),
    "own-operator": lambda: Network(own_open_operator),
    "directions-in-turn": lambda: Network(ahead_with_experts, back_with_experts),
}


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", FREE)
def test_choosing_and_sorting_tokens_is_no_order(name: str) -> None:
    module = FREE[name]()
    seen = sees(FREE[name]())
    assert bool((seen & seen.mT & ~SELF).any((1, 2)).all()), "some tokens of each sample must see each other"
    found = cbs.inspect(cbs.Model(module.eval(), (noise(),)))
    assert len(cbs.plan(found, op="cb", layers="all")) == 2
