"""Influence that goes one way without a triangle, attention whose results are cut, and streams that share their blocks.

The reference runs the networks themselves: tokens of the input are changed one by one, and outputs are compared.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import SurgeryError
from cbsurgeon.graph import Inspection

WIDTH, TOKENS = 8, 9
MOVED = 1e-6
"""Of outputs of order one in float32; a mean over nine tokens moves by 1e-2."""

LOWER = torch.ones(TOKENS, TOKENS).tril().bool()


class Mlp(nn.Module):
    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, 16), nn.Linear(16, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


class Layer(nn.Module):
    """Attention and an MLP; ``seen`` of ``[queries, keys]`` is true where a token is seen."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return self.mlp(x + self.out(self.attend(q, k, v, seen)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
        scores = q @ k.transpose(1, 2) / 3
        return (scores if seen is None else scores.masked_fill(~seen, float("-inf"))).softmax(-1) @ v


class Masked(nn.Module):
    def __init__(self, seen: Tensor, layers: int = 2) -> None:
        super().__init__()
        self.register_buffer("seen", seen)
        self.layers = nn.ModuleList([Layer() for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, self.seen)
        return x


def prompt_behind() -> nn.Module:
    """Causal tokens, and a prompt at the end that all of them see."""
    seen = LOWER.clone()
    seen[:, -1], seen[-1, :-1] = True, False
    return Masked(seen)


def queries_in_front() -> nn.Module:
    """Three queries that read the tokens behind them and are read by nobody."""
    return Masked(torch.eye(TOKENS).bool() | (torch.arange(TOKENS) >= 3))


def odd_read_even() -> nn.Module:
    odd = torch.arange(TOKENS) % 2 == 1
    return Masked(~(~odd[:, None] & odd[None, :]))


class OneTurnPerToken(Layer):
    """All queries over the keys so far, of which each turn takes the last."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
        turns = [super(OneTurnPerToken, self).attend(q, k[:, :end], v[:, :end], None) for end in range(1, TOKENS + 1)]
        return torch.stack([turn[:, end] for end, turn in enumerate(turns)], 1)


class OneFusedTurnPerToken(Layer):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
        ends = range(1, TOKENS + 1)
        turns = [F.scaled_dot_product_attention(q, k[:, :end], v[:, :end]) for end in ends]
        return torch.stack([turn[:, end] for end, turn in enumerate(turns)], 1)


class OwnOutput(nn.Module):
    """Causal layers with an output of their own, and layers without a mask behind them with another one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.words = Layer(), Layer(), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(x, LOWER)
        return self.words(x), self.second(x)


class Shared(nn.Module):
    """The same layers without a mask for one input, and with one for the other."""

    def __init__(self, seen: Tensor | None) -> None:
        super().__init__()
        self.layers, self.seen = nn.ModuleList([Layer(), Layer()]), seen

    def forward(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        x = x + source.mean(1, keepdim=True)
        for layer in self.layers:
            source, x = layer(source), layer(x, self.seen)
        return x, source


class WiderBehind(nn.Module):
    """MLPs alone, and then a recurrent layer of another width."""

    def __init__(self) -> None:
        super().__init__()
        self.mlps, self.rnn, self.head = (
            nn.Sequential(Mlp(), Mlp()),
            nn.GRU(WIDTH, 12, batch_first=True),
            nn.Linear(12, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.mlps(x))[0])


class NarrowerInFront(nn.Module):
    """A recurrent layer of another width, and then MLPs alone."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.up = nn.GRU(WIDTH, 12, batch_first=True), nn.Linear(12, 16)
        self.mlps, self.head = nn.Sequential(Mlp(16), Mlp(16)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mlps(self.up(self.rnn(x)[0])))


def stacked(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(make(), make())


def noise(seed: int) -> Tensor:
    return torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))


def sees(module: nn.Module, *given: Tensor) -> Tensor:
    """``[changed, moved]``: whether changing one token of the first input moves one of the first output."""

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            out = module(x, *given[1:])
        return out if isinstance(out, Tensor) else out[0]

    plain, rows = run(given[0]), []
    for token in range(TOKENS):
        changed = given[0].clone()
        changed[:, token] *= -3
        rows.append((run(changed) - plain).abs().amax((0, 2)) > MOVED)
    return torch.stack(rows)


def inspected(make: Callable[[], nn.Module], inputs: int) -> tuple[nn.Module, tuple[Tensor, ...], Inspection]:
    torch.manual_seed(0)
    module, given = make().eval(), tuple(noise(seed) for seed in range(1, 1 + inputs))
    return module, given, cbs.inspect(cbs.Model(module, given))


@pytest.mark.parametrize("make", [prompt_behind, queries_in_front, odd_read_even])
def test_influence_that_goes_one_way_is_refused_in_every_form(make: Callable[[], nn.Module]) -> None:
    module, given, found = inspected(make, 1)
    before = sees(module, *given)
    assert bool((before & ~before.T).tril(-1).any()), "some token must see a later one that does not see it"
    for options in ({}, {"causal": True}):
        with pytest.raises(SurgeryError, match="do not see earlier ones") as refused:
            cbs.plan(found, op="cb", layers="all", options=options)
        assert refused.value.code == "CB-LEAK-10"


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (stacked(OneTurnPerToken), 1),
        (stacked(OneFusedTurnPerToken), 1),
        (OwnOutput, 1),
        (lambda: Shared(LOWER), 2),
        (WiderBehind, 1),
        (NarrowerInFront, 1),
    ],
)
def test_causal_streams_are_noticed_and_take_the_causal_form(make: Callable[[], nn.Module], inputs: int) -> None:
    module, given, found = inspected(make, inputs)
    assert not bool(sees(module, *given).tril(-1).any()), "no token of the reference may see a later one"
    with pytest.raises(SurgeryError) as refused:
        cbs.plan(found, op="cb", layers="all")
    assert refused.value.code == "CB-LEAK-01"
    edited = cbs.insert(cbs.Model(module, given), cbs.plan(found, op="cb", layers="all", causal=True)).module
    assert not bool(sees(edited, *given).tril(-1).any())
    assert bool(sees(edited, *given)[0].all()), "the mean must reach every later token"


def windows() -> nn.Module:
    """Chunks that never see each other."""
    chunk = torch.arange(TOKENS) // 3
    return Masked(chunk[:, None] == chunk[None])


@pytest.mark.parametrize(("make", "inputs"), [(windows, 1), (lambda: Shared(None), 2)])
def test_what_is_not_one_way_is_free(make: Callable[[], nn.Module], inputs: int) -> None:
    module, given, found = inspected(make, inputs)
    influence = sees(module, *given)
    assert torch.equal(influence, influence.T)
    assert len(cbs.plan(found, op="cb", layers="all")) == len(found.blocks) > 0


def test_tokens_that_meet_in_a_mean_over_the_image_are_not_hidden() -> None:
    """GCViT: windows, and queries that are pooled from the image. One token moves the other windows too little to be
    measured, but half of the tokens move the other half in both directions."""
    timm = pytest.importorskip("timm", reason="the architecture is timm's")
    module = timm.create_model("gcvit_xxtiny", num_classes=10, img_size=128).eval()
    x = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        stem = module.stem(x)
        plain, half = module.stages[0](stem), stem.shape[-2] // 2
        for changed in (slice(0, half), slice(half, None)):
            other = stem.clone()
            other[:, :, changed] += torch.randn_like(other[:, :, changed])
            moved = (module.stages[0](other) - plain).abs().amax(dim=(0, 1, 3))
            assert moved[: len(moved) // 2].max() > MOVED and moved[len(moved) // 2 :].max() > MOVED
    found = cbs.inspect(cbs.Model(module, (x,)))
    assert not found.causal
    assert len(cbs.plan(found, layers="all").sites) == len(found.blocks)
