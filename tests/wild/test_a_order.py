"""Orders of the tokens that an input or a mask written in place decides, tokens behind a mark, and groups of tokens.

The reference runs the network itself: tokens of each sample are changed one by one, and the outputs of that sample are
compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import SurgeryError

WIDTH, TOKENS = 8, 9
MOVED = 1e-6
"""Of outputs of order one in float32; a mean over nine tokens moves by 1e-2."""

PLACE, SELF, LOWER = torch.arange(TOKENS), torch.eye(TOKENS).bool(), torch.ones(TOKENS, TOKENS).tril()


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """``seen``: ``[..., queries, keys]``, one for a key that is seen."""
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        weights = (q @ k.transpose(1, 2) / 3).exp() * seen
        return self.out(weights / (weights.sum(-1, keepdim=True) + MOVED) @ v)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


Mix = Callable[[Mixer, Tensor, Tensor], Tensor]


class Network(nn.Module):
    """Two layers. ``mix`` gets a mixer, the tokens and what was given; without a second input, the tokens are given."""

    def __init__(self, mix: Mix) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mix = nn.Linear(WIDTH, WIDTH), mix
        self.mixers, self.mlps = nn.ModuleList([Mixer(), Mixer()]), nn.ModuleList([Mlp(), Mlp()])

    def forward(self, x: Tensor, given: Tensor | None = None) -> Tensor:
        given = x if given is None else given
        x = self.embed(x)
        for mixer, mlp in zip(self.mixers, self.mlps, strict=True):
            assert isinstance(mixer, Mixer)
            x = mlp(x + self.mix(mixer, x, given))
        return x


def not_before(places: Tensor) -> Tensor:
    return (places[:, :, None] >= places[:, None]).float()


def keys(keep: Tensor) -> Tensor:
    return keep.float()[:, None]


def by_places(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    return mixer(x, not_before(given))


def by_order(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    return mixer(x, not_before(given.argsort(1)))


def strictly(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    return mixer(x, ((given[:, :, None] > given[:, None]) | SELF).float())


def in_a_softmax(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    q, k, v = mixer.qkv(mixer.norm(x)).chunk(3, -1)
    scores = (q @ k.mT / 3).masked_fill(not_before(given.argsort(1)) == 0, float("-inf"))
    return mixer.out(scores.softmax(-1) @ v)


def sorted_first(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    """Tokens are sorted, see earlier ones, and are put back."""
    order = given[..., None].expand_as(x)
    return torch.zeros_like(x).scatter(1, order, mixer(x.gather(1, order), LOWER))


def by_first_channel(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    return mixer(x, not_before(given[..., 0]))


def sorted_and_put_back(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    """The same without a mask: the order changes nothing."""
    order = given[..., None].expand_as(x)
    return torch.zeros_like(x).scatter(1, order, mixer(x.gather(1, order), torch.ones(TOKENS, TOKENS)))


def decaying(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    return mixer(x, (given[:, None] - given[:, :, None]).float().sigmoid())


def neighbours(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    """Each token sees the three that are nearest to it in space; these may not see it."""
    far = torch.cdist(given.float(), given.float())
    return mixer(x, (far <= far.topk(3, largest=False).values[..., -1:]).float())


def ancestors(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    """A token sees its ancestors in a binary tree."""
    seen = torch.eye(TOKENS)
    for token in range(TOKENS):
        up = token
        while up:
            up = (up - 1) // 2
            seen[token, up] = 1
    return mixer(x, seen)


def written_in_place(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    """Later tokens are seen by earlier ones and by no others; the mask is filled row by row."""
    seen = torch.zeros(TOKENS, TOKENS)
    for token in range(TOKENS):
        seen[token, token:] = 1
    return mixer(x, seen)


def filled_in_place(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    return mixer(x, torch.ones(TOKENS, TOKENS).tril_().t())


def noise(*shape: int) -> Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))


def shuffled() -> Tensor:
    return torch.stack([torch.randperm(TOKENS, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)])


def cells() -> Tensor:
    return torch.randint(0, 20, (2, TOKENS, 2), generator=torch.Generator().manual_seed(2))


def sees(module: nn.Module, x: Tensor, *given: Tensor) -> Tensor:
    """``[samples, changed, moved]``: whether a small change of one token moves another of the same sample."""
    with torch.no_grad():
        plain, rows = module(x, *given), []
        for token in range(TOKENS):
            changed = x.clone()
            changed[:, token, 1:-1] += 0.1
            rows.append((module(changed, *given) - plain).abs().amax(2) > MOVED)
    return torch.stack(rows, 1)


@pytest.mark.parametrize(
    ("mix", "example", "other"),
    [
        (by_places, shuffled(), None),
        (by_order, shuffled(), None),
        (strictly, shuffled(), None),
        (sorted_first, shuffled(), None),
        (by_order, PLACE.expand(2, -1).clone(), shuffled()),
        (in_a_softmax, shuffled(), None),
        (in_a_softmax, PLACE.expand(2, -1).clone(), shuffled()),
        (by_places, PLACE.expand(2, -1) / 10, noise(TOKENS)),
        (by_first_channel, None, None),
        (ancestors, None, None),
        (written_in_place, None, None),
        (filled_in_place, None, None),
    ],
)
def test_an_order_of_each_sample_is_refused_in_every_form(
    mix: Mix, example: Tensor | None, other: Tensor | None
) -> None:
    module, x = Network(mix).eval(), noise(TOKENS, WIDTH)
    example_given, given = (() if one is None else (one,) for one in (example, other if other is not None else example))
    seen = sees(module, x, *given)
    assert not bool((seen & seen.mT & ~SELF).any()), "no two tokens of a sample may see each other"
    assert bool((seen & ~SELF).any((1, 2)).all()), "some token of each sample must see another"
    found = cbs.inspect(cbs.Model(module, (x, *example_given)))
    assert len(found.blocks) == 2
    for options in ({}, {"causal": True}):
        with pytest.raises(SurgeryError, match="CB-LEAK-10"):  # the order is the cause, not padding
            cbs.plan(found, op="cb", layers="all", options=options)


class Flipped(nn.Module):
    """The tokens are flipped before the layers and after them; ``seen`` holds for the flipped tokens."""

    def __init__(self, seen: Tensor) -> None:
        super().__init__()
        self.inner = Network(lambda mixer, x, given: mixer(x, seen))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flip(1)).flip(1)


@pytest.mark.parametrize("seen", [LOWER, LOWER.T])
def test_layers_with_flipped_tokens_are_refused_in_every_form(seen: Tensor) -> None:
    module, x = Flipped(seen).eval(), noise(TOKENS, WIDTH)
    shown = sees(module, x)
    assert not bool((shown & shown.mT & ~SELF).any()), "no two tokens may see each other"
    found = cbs.inspect(cbs.Model(module, (x,)))
    for options in ({}, {"causal": True}):
        with pytest.raises(SurgeryError, match="CB-LEAK-10"):
            cbs.plan(found, op="cb", layers="all", options=options)


@pytest.mark.parametrize(
    ("mix", "given"), [(sorted_and_put_back, shuffled()), (decaying, shuffled()), (neighbours, cells())]
)
def test_an_order_that_hides_nothing_is_free(mix: Mix, given: Tensor) -> None:
    module, x = Network(mix).eval(), noise(TOKENS, WIDTH)
    seen = sees(module, x, given)
    assert bool((seen & seen.mT & ~SELF).any()), "some tokens of the reference must see each other"
    assert len(cbs.plan(cbs.inspect(cbs.Model(module, (x, given))), op="cb", layers="all")) == 2


@dataclass(frozen=True)
class Marks:
    """A network, an example that marks nothing, and the same with marks that hide some tokens."""

    mix: Mix
    plain: Tensor
    marked: Tensor
    hidden: list[int] = field(default_factory=lambda: [5, 6, 7, 8])


def marked(place: int, number: int) -> Tensor:
    given = torch.full((2, TOKENS), 5)
    given[:, place] = number
    return given


ONES, CELLS = torch.ones(2, 3), torch.ones(2, 6, 6)
GROUP, TASKS = PLACE // 3, torch.stack([torch.ones(TOKENS), (PLACE < 6).float(), (PLACE < 3).float()])
BEHIND = {
    "behind-the-end": Marks(
        lambda m, x, g: m(x, keys(g.eq(2).cumsum(1) - g.eq(2).long() == 0)), marked(0, 5), marked(4, 2)
    ),
    "in-front-of-the-start": Marks(
        lambda m, x, g: m(x, keys(g.eq(1).int().argmax(1, keepdim=True) <= PLACE)),
        marked(0, 5),
        marked(3, 1),
        [0, 1, 2],
    ),
    "number-of-padding": Marks(
        lambda m, x, g: m(x, keys(TOKENS - g[:, None] > PLACE)), torch.zeros(2).long(), torch.full((2,), 4)
    ),
    "task": Marks(lambda m, x, g: m(x, keys(TASKS[g])), torch.zeros(2).long(), torch.ones(2).long(), [6, 7, 8]),
    "two-lengths": Marks(
        lambda m, x, g: m(x, keys(torch.where(PLACE < 4, g[:, :1] > PLACE, g[:, 1:] > PLACE - 4))),
        torch.tensor([[4, 5], [4, 5]]),
        torch.tensor([[2, 5], [2, 5]]),
        [2, 3],
    ),
    "ids-of-some": Marks(
        lambda m, x, g: m(x, keys(F.pad(g.ne(0).float(), (0, 5), value=1.0))),
        torch.full((2, 4), 7),
        torch.tensor([[7, 7, 0, 0]] * 2),
        [2, 3],
    ),
    "group": Marks(lambda m, x, g: m(x, keys(g[:, GROUP])), ONES, ONES * torch.tensor([1, 1, 0]), [6, 7, 8]),
    "pixels": Marks(
        lambda m, x, g: m(x, keys(F.avg_pool2d(g[:, None], 2).flatten(1) > 0.5)),
        CELLS,
        CELLS * torch.tensor([1, 1, 1, 1, 0, 0])[:, None],
        [6, 7, 8],
    ),
}


@pytest.mark.parametrize("name", BEHIND)
def test_tokens_behind_a_mark_are_noticed(name: str) -> None:
    case, x = BEHIND[name], noise(TOKENS, WIDTH)
    module = Network(case.mix).eval()
    shown = [token for token in range(TOKENS) if token not in case.hidden]
    assert bool(sees(module, x, case.plain).all())
    assert not bool(sees(module, x, case.marked)[:, case.hidden][:, :, shown].any())
    found = cbs.inspect(cbs.Model(module, (x, case.plain)))
    assert len(found.blocks) == 2
    with pytest.raises(SurgeryError) as refused:
        cbs.plan(found, op="cb", layers="all")
    assert refused.value.code == "CB-LEAK-02"


def test_a_channel_that_marks_absent_tokens_is_noticed() -> None:
    """The last channel of the tokens says which of them were observed."""
    module = Network(lambda mixer, x, given: mixer(x, keys(given[..., -1]))).eval()
    x = noise(TOKENS, WIDTH)
    x[..., -1] = 1
    some = x.clone()
    some[:, 5:, -1] = 0
    assert bool(sees(module, x).all())
    assert not bool(sees(module, some)[:, 5:, :5].any())
    found = cbs.inspect(cbs.Model(module, (x,)))
    with pytest.raises(SurgeryError) as refused:
        cbs.plan(found, op="cb", layers="all")
    assert refused.value.code == "CB-LEAK-02"
