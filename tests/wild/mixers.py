"""Token mixers in many spellings, most of which hide later tokens, and the network that they are put into."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

BATCH, LENGTH, WIDTH = 2, 8, 16


class Projected(nn.Module):
    """Queries, keys, values and an output projection; a subclass says how tokens are mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, y: Tensor) -> Tensor:
        return self.out(self.mix(self.q(y), self.k(y), self.v(y)))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(1, 2) * WIDTH**-0.5


def distance(n: int) -> Tensor:
    steps = torch.arange(n)
    return steps[:, None] - steps[None, :]


class RenormalisedTril(Projected):
    """The weights are multiplied by a triangle after the softmax and divided by their sum."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = scores(q, k).softmax(-1) * torch.ones(LENGTH, LENGTH).tril()
        return (weights / weights.sum(-1, keepdim=True)) @ v


class TrilParameter(Projected):
    """The same with the triangle kept as a parameter that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.triangle = nn.Parameter(torch.ones(LENGTH, LENGTH).tril(), requires_grad=False)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = scores(q, k).exp() * self.triangle
        return torch.einsum("bqk,bkc->bqc", weights / weights.sum(-1, keepdim=True), v)


class Retention(Projected):
    """A decay that is zero above the diagonal is multiplied onto the scores; there is no softmax."""

    decay: Tensor

    def __init__(self) -> None:
        super().__init__()
        far = distance(LENGTH)
        self.register_buffer("decay", torch.where(far >= 0, 0.9 ** far.clamp(min=0), torch.tensor(0.0)))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (scores(q, k) * self.decay) @ v


class CausalAlibi(Projected):
    """A slope per distance and a comparison of two ranges, both made in forward()."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        far = distance(q.shape[1])
        return (scores(q, k) - 0.5 * far.abs() + torch.where(far < 0, float("-inf"), 0.0)).softmax(-1) @ v


class SlidingWindow(Projected):
    """A token sees itself and the two before it."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        far = distance(q.shape[1])
        return scores(q, k).masked_fill((far < 0) | (far > 2), float("-inf")).softmax(-1) @ v


class GatheredWindow(Projected):
    """The same window without a mask: keys and values are padded in front and unfolded."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        near = [nn.functional.pad(one, (0, 0, 2, 0)).unfold(1, 3, 1) for one in (k, v)]
        weights = (torch.einsum("bnc,bncw->bnw", q, near[0]) * WIDTH**-0.5).softmax(-1)
        return torch.einsum("bnw,bncw->bnc", weights, near[1])


class FilledAfterScaling(Projected):
    """``masked_fill`` with a large finite number, in half the precision's range."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        hidden = ~torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
        return (q @ k.transpose(1, 2)).div(WIDTH**0.5).masked_fill(hidden, -1e4).softmax(-1) @ v


class LinearAttention(Projected):
    """A running sum of keys times values, and one of the keys."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = nn.functional.elu(q) + 1, nn.functional.elu(k) + 1
        context = torch.einsum("bnd,bne->bnde", k, v).cumsum(1)
        return torch.einsum("bnd,bnde->bne", q, context) / (q * k.cumsum(1)).sum(-1, keepdim=True)


class RunningMean(nn.Module):
    """Every token with the mean of those up to it; no attention of any kind."""

    def forward(self, y: Tensor) -> Tensor:
        return y.cumsum(1) / torch.arange(1, y.shape[1] + 1)[None, :, None]


class CausalConvolution(nn.Module):
    """A convolution over the tokens, padded in front only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3)

    def forward(self, y: Tensor) -> Tensor:
        return self.conv(nn.functional.pad(y.transpose(1, 2), (2, 0))).transpose(1, 2)


class LongConvolution(nn.Module):
    """A filter as long as the sequence, applied by a Fourier transform of twice the length: rounding goes both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(LENGTH, WIDTH) / 3)

    def forward(self, y: Tensor) -> Tensor:
        n = y.shape[1]
        product = torch.fft.rfft(y, 2 * n, dim=1) * torch.fft.rfft(self.filter, 2 * n, dim=0)
        return torch.fft.irfft(product, 2 * n, dim=1)[:, :n]


class TokenShift(nn.Module):
    """Half of the channels come from the token before."""

    def forward(self, y: Tensor) -> Tensor:
        return torch.cat([nn.functional.pad(y, (0, 0, 1, 0))[:, :-1, : WIDTH // 2], y[..., WIDTH // 2 :]], -1)


class Recurrence(nn.Module):
    """A gated recurrence, unrolled."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, y: Tensor) -> Tensor:
        gate, value = self.gate(y).sigmoid(), self.value(y)
        state, states = torch.zeros_like(value[:, 0]), []
        for place in range(LENGTH):
            state = gate[:, place] * state + (1 - gate[:, place]) * value[:, place]
            states.append(state)
        return torch.stack(states, 1)


class GatedByZero(Retention):
    """A causal branch that starts switched off, as in ReZero."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, y: Tensor) -> Tensor:
        return self.alpha * super().forward(y)


class TriangularTokenProjection(nn.Module):
    """A linear layer over the tokens whose weight is a triangle, as in a causal gMLP or Mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(LENGTH, LENGTH) / 2)

    def forward(self, y: Tensor) -> Tensor:
        return self.weight.tril() @ y


class PrefixLm(Projected):
    """The first three tokens see each other; the others see those up to themselves."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        far, place = distance(q.shape[1]), torch.arange(q.shape[1])
        seen = (far >= 0) | (place < 3)[None, :]
        return scores(q, k).masked_fill(~seen, float("-inf")).softmax(-1) @ v


class LongPrefix(PrefixLm):
    """The same with a prefix of all tokens but two."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        far, place = distance(q.shape[1]), torch.arange(q.shape[1])
        seen = ((far >= 0) | (place < LENGTH - 2)[None, :]).to(q.dtype)
        weights = scores(q, k).exp() * seen
        return weights / weights.sum(-1, keepdim=True) @ v


class CausalFrames(Projected):
    """Tokens of a frame (three of them) see each other and the frames before."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        frame = torch.arange(q.shape[1]) // 3
        return (scores(q, k) * (frame[:, None] >= frame[None, :])) @ v


class Backwards(Projected):
    """A token sees those from itself on: the past is hidden."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (scores(q, k) * torch.ones(LENGTH, LENGTH).triu()) @ v


class OpenLinearAttention(Projected):
    """Linear attention over all tokens."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = nn.functional.elu(q) + 1, nn.functional.elu(k) + 1
        return torch.einsum("bnd,bde->bne", q, torch.einsum("bnd,bne->bde", k, v)) / LENGTH


class OpenDecay(Projected):
    """A decay with the distance in both directions."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (scores(q, k) * 0.5 ** distance(q.shape[1]).abs()) @ v


class OpenConvolution(nn.Module):
    """A convolution over the tokens, padded on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, y: Tensor) -> Tensor:
        return self.conv(y.transpose(1, 2)).transpose(1, 2)


class ForwardAndBackward(nn.Module):
    """Half of the channels run forwards, the other half backwards: together every token sees every other."""

    def forward(self, y: Tensor) -> Tensor:
        ahead, back = y.chunk(2, -1)
        return torch.cat([back.flip(1).cumsum(1).flip(1), ahead.cumsum(1)], -1) / LENGTH


class TinyScale(OpenDecay):
    """Attention over all tokens, followed by a layer scale of 1e-6."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((WIDTH,), 1e-6))

    def forward(self, y: Tensor) -> Tensor:
        return self.gamma * super().forward(y)


class Layer(nn.Module):
    """A mixer and an MLP, each on a residual branch; the MLP may come first."""

    def __init__(self, mixer: nn.Module, *, mlp_first: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mixer, self.mlp_first = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), mixer, mlp_first
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        if self.mlp_first:
            x = x + self.mlp(self.norm2(x))
            return x + self.mixer(self.norm1(x))
        x = x + self.mixer(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Network(nn.Module):
    """Layers one after another."""

    def __init__(self, make: Callable[[], nn.Module], depth: int = 2, *, mlp_first: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*(Layer(make(), mlp_first=mlp_first) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


CAUSAL: tuple[type[nn.Module], ...] = (
    RenormalisedTril, TrilParameter, Retention, CausalAlibi, SlidingWindow, GatheredWindow, FilledAfterScaling,
    LinearAttention, RunningMean, CausalConvolution, LongConvolution, TokenShift, Recurrence, TriangularTokenProjection,
)  # fmt: skip
"""A token sees none of those behind it."""

PARTLY: tuple[type[nn.Module], ...] = (PrefixLm, LongPrefix, CausalFrames)
"""Some tokens see some of those behind them, and none of others."""

OPEN: tuple[type[nn.Module], ...] = (
    OpenLinearAttention, OpenDecay, OpenConvolution, ForwardAndBackward, TinyScale,
)  # fmt: skip
"""Tokens see others on both sides."""
