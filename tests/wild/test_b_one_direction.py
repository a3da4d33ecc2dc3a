"""Samples are independent along the batch axis in both directions, and neighbours as well.

A model with its tokens in front may pass values on to later tokens only, or to neighbours only. The first token then
does not change with the last one, and the axis of the tokens must still not be taken for the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import CaptureError, CBSurgeonError

WIDTH, TOKENS, SAMPLES = 16, 10, 2
CLOSE = 1e-5
"""Absolute, on outputs of order one in float32: what two blocks round is about 1e-6."""


class RunningSum(nn.Module):
    """A gated running sum over the tokens, ``[tokens, samples, channels]``."""

    def __init__(self) -> None:
        super().__init__()
        self.proj, self.out = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.proj(x).chunk(2, -1)
        return self.out(torch.sigmoid(gate) * value.cumsum(0))


class ShiftedTokens(nn.Module):
    """Each token sees itself and the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.proj(x)
        return y - F.pad(y, (0, 0, 0, 0, 1, 0))[:-1]


class ShiftedBack(ShiftedTokens):
    """Each token sees itself and the one behind."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.proj(x)
        return y - F.pad(y, (0, 0, 0, 0, 0, 1))[1:]


class Neighbours(nn.Module):
    """A convolution over three tokens: what the last token changes does not reach the first one in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.permute(1, 2, 0)).permute(2, 0, 1)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Network(nn.Module):
    def __init__(self, mixer: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(4)])
        self.mixers = nn.ModuleList([mixer() for _ in range(2)])
        self.mlps = nn.ModuleList([Mlp() for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in range(2):
            x = x + self.mixers[layer](self.norms[2 * layer](x))
            x = x + self.mlps[layer](self.norms[2 * layer + 1](x))
        return x


class Cached(nn.Module):
    """Keys of earlier steps come as an input ``[layers, samples, steps, channels]``; there are as many layers as
    samples, and tokens see the cache and earlier tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.mlp = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), Mlp()

    def forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        steps, count = cache.shape[2], x.shape[1]
        seen = torch.ones(count, steps + count, dtype=torch.bool).tril(steps)
        kept = []
        for layer in range(SAMPLES):
            keys = torch.cat([cache[layer], self.k(x)], 1)
            kept.append(keys)
            x = x + (self.q(x) @ keys.mT).masked_fill(~seen, -1e9).softmax(-1) @ keys
            x = x + self.mlp(x)
        return x, torch.stack(kept)


class Attention(nn.Module):
    """Attention over the tokens in front."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).transpose(0, 1) for part in (self.q, self.k, self.v))
        return ((q @ k.mT).softmax(-1) @ v).transpose(0, 1)


class Layer(nn.Module):
    """A mixer, if there is one, and an MLP."""

    def __init__(self, mixer: type[nn.Module] | None) -> None:
        super().__init__()
        self.mixer = mixer() if mixer is not None else None
        self.norm, self.mlp = nn.LayerNorm(WIDTH), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        if self.mixer is not None:
            x = x + self.mixer(x)
        return x + self.mlp(self.norm(x))


class InParts(nn.Module):
    """torch.export cannot follow the branch, so that each layer is captured alone."""

    def __init__(self, mixer: type[nn.Module] | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([Layer(mixer) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if float(x.detach().abs().mean()) > 100:
                x = x / 2
            x = layer(self.between(x))
        return x

    def between(self, x: Tensor) -> Tensor:
        return x


class SumsBetween(InParts):
    """Tokens are mixed by the code between the layers."""

    def __init__(self) -> None:
        super().__init__(None)

    def between(self, x: Tensor) -> Tensor:
        return x + x.cumsum(0) / 10


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def by_hand(net: nn.Module, axis: int) -> nn.Module:
    """The network with the mean over an axis added to each MLP by a plain hook."""
    net = copy.deepcopy(net)
    for part in net.modules():
        if isinstance(part, Mlp):
            part.register_forward_hook(lambda _, __, y: (y + y.mean(axis, keepdim=True)) / 2)
    return net


@pytest.mark.parametrize("mixer", [RunningSum, ShiftedTokens, ShiftedBack, Neighbours])
def test_tokens_in_front_that_see_some_others_are_not_taken_for_samples(mixer: type[nn.Module]) -> None:
    net, x = Network(mixer).eval(), noise(TOKENS, SAMPLES, WIDTH)
    with pytest.raises(CaptureError, match="--batch-axis 1") as raised:
        cbs.insert_(copy.deepcopy(net), op="cb", layers="all", inputs=x)
    assert raised.value.code == "CB-CAPTURE-08"


def test_with_the_axis_stated_the_mean_runs_over_the_tokens() -> None:
    net, x = Network(Neighbours).eval(), noise(TOKENS, SAMPLES, WIDTH)
    edited = cbs.insert_(copy.deepcopy(net), op="cb", layers="all", inputs=x, batch_axis=1)
    with torch.no_grad():
        torch.testing.assert_close(edited(x), by_hand(net, 0)(x), atol=CLOSE, rtol=0)


def test_tokens_that_see_earlier_ones_are_not_suggested_as_the_batch() -> None:
    with pytest.raises(CBSurgeonError) as raised:
        cbs.insert_(Cached().eval(), op="cb", layers="all", inputs=(noise(SAMPLES, 8, WIDTH), noise(2, 2, 3, WIDTH)))
    assert "--batch-axis 1" not in str(raised.value)  # axis 1 of x holds the tokens


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: InParts(Attention), "in layers.0, the attention mixer attends along this axis"),
        (lambda: InParts(RunningSum), "in layers.0, output of one sample changes"),
        (lambda: InParts(Neighbours), "in layers.0, output of one sample changes"),
        (SumsBetween, "tensor 0 of the output changes for one sample"),
    ],
)
def test_the_batch_of_a_model_in_parts_is_proved_as_well(make: Callable[[], nn.Module], why: str) -> None:
    with pytest.raises(CaptureError, match="--batch-axis 1") as raised:
        cbs.insert_(make().eval(), op="cb", layers="all", inputs=noise(TOKENS, SAMPLES, WIDTH))
    assert raised.value.code == "CB-CAPTURE-08" and why in str(raised.value.why)


def test_parts_with_the_axis_stated_have_the_mean_over_their_tokens() -> None:
    net, x = InParts(Attention).eval(), noise(TOKENS, SAMPLES, WIDTH)
    edited = cbs.insert_(copy.deepcopy(net), op="cb", layers="all", inputs=x, batch_axis=1)
    with torch.no_grad():
        torch.testing.assert_close(edited(x), by_hand(net, 0)(x), atol=CLOSE, rtol=0)
