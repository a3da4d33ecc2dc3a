"""Causal and padded networks in forms that no pattern knows, each with what a person would say about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.wild.mixers import Projected, Retention, RunningMean

LENGTH, WIDTH, FRAMES, PATCHES = 9, 16, 3, 4


class Layer(nn.Module):
    """A mixer and an MLP on ``[..., tokens, WIDTH]``."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.norm1, self.mixer, self.norm2 = nn.LayerNorm(WIDTH), mixer, nn.LayerNorm(WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        x = x + self.mixer(self.norm1(x), *given)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Network(nn.Module):
    """Two layers; a stem in front of them, where there is one."""

    def __init__(self, make: Callable[[], nn.Module], stem: nn.Module | None = None, layers: int = 2) -> None:
        super().__init__()
        self.stem = stem or nn.Identity()
        self.layers = nn.ModuleList([Layer(make()) for _ in range(layers)])

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x, *given)
        return x


class Softmax(Projected):
    """Attention whose scores, weights and masks a subclass changes; ``LENGTH`` tokens."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) * WIDTH**-0.5

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.weights(self.scores(q, k)) @ v

    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1)


def places(n: int = LENGTH) -> tuple[Tensor, Tensor]:
    return torch.arange(n)[:, None], torch.arange(n)[None, :]


class BlockCausal(Softmax):
    """Chunks of four tokens that see each other and the chunks before; the boundary is not in the middle."""

    def weights(self, scores: Tensor) -> Tensor:
        q, k = places()
        return scores.masked_fill(k // 4 > q // 4, float("-inf")).softmax(-1)


class Dilated(Softmax):
    """Tokens see themselves and those two and four before."""

    def weights(self, scores: Tensor) -> Tensor:
        q, k = places()
        far = q - k
        return torch.where((far >= 0) & (far <= 4) & (far % 2 == 0), scores, -1e9).softmax(-1)


class Slopes(Softmax):
    """Two heads with a slope each, and the type's minimum added above the diagonal."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (2, -1)).transpose(1, 2) for y in (q, k, v))
        to, at = places()
        bias = -(to - at).abs() * torch.tensor([0.5, 0.25]).view(2, 1, 1)
        bias = bias + torch.triu(torch.full((LENGTH, LENGTH), torch.finfo(torch.float32).min), 1)
        return ((self.scores(q, k) + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)


class WhereAfterSoftmax(Softmax):
    """Weights above the diagonal are replaced by zero after the softmax; the rest is divided by its sum."""

    def weights(self, scores: Tensor) -> Tensor:
        q, k = places()
        kept = torch.where(k <= q, scores.softmax(-1), torch.zeros(()))
        return kept / kept.sum(-1, keepdim=True)


class IntegerMask(Softmax):
    """The triangle is a buffer of int64."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.ones(LENGTH, LENGTH, dtype=torch.int64).tril())

    def weights(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(self.seen == 0, float("-inf")).softmax(-1)


class OneHeadAhead(Softmax):
    """One head sees the past, the other only the last two tokens: masks per head."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (2, -1)).transpose(1, 2) for y in (q, k, v))
        to, at = places()
        masks = torch.stack([at <= to, (at <= to) & (to - at < 2)])
        return (torch.where(masks, self.scores(q, k), -1e9).softmax(-1) @ v).transpose(1, 2).flatten(2)


class Rotary(Softmax):
    """Rotary positions and a boolean mask given to the fused attention."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        angle = torch.arange(LENGTH)[:, None] * torch.tensor([1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4])
        cos, sin = angle.cos(), angle.sin()

        def turned(y: Tensor) -> Tensor:
            a, b = y.chunk(2, -1)
            return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

        seen = torch.ones(LENGTH, LENGTH).tril().bool()
        return F.scaled_dot_product_attention(turned(q), turned(k), v, attn_mask=seen)


class Selective(nn.Module):
    """A selective scan as in Mamba: step sizes from the input, a state carried from token to token."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.dt, self.b, self.c = (nn.Linear(WIDTH, n) for n in (WIDTH, WIDTH, 4, 4))
        self.a, self.out = nn.Parameter(torch.rand(WIDTH, 4)), nn.Linear(WIDTH, WIDTH)

    def forward(self, y: Tensor) -> Tensor:
        x, dt, b, c = self.x(y), F.softplus(self.dt(y)), self.b(y), self.c(y)
        state = y.new_zeros(y.shape[0], WIDTH, 4)
        out = []
        for i in range(LENGTH):
            decay = torch.exp(-dt[:, i, :, None] * self.a)
            state = decay * state + (dt[:, i] * x[:, i])[..., None] * b[:, i, None, :]
            out.append((state * c[:, i, None, :]).sum(-1))
        return self.out(torch.stack(out, 1) * F.silu(x))


class LogSum(nn.Module):
    """An attention-free transformer: values weighted by running sums of exponentials, in logarithms."""

    def __init__(self) -> None:
        super().__init__()
        self.k, self.v = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, y: Tensor) -> Tensor:
        k, v = self.k(y), self.v(y)
        return (k.exp() * v).cumsum(1) / torch.logcumsumexp(k, 1).exp()


class Gru(nn.Module):
    """A recurrent network of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, y: Tensor) -> Tensor:
        return self.rnn(y)[0]


class ConvolutionStem(nn.Module):
    """A causal convolution in front of layers that mix no tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2)


class Nothing(nn.Module):
    """Mixes no tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(WIDTH))

    def forward(self, y: Tensor) -> Tensor:
        return y * self.gain


class RandomFeatures(Projected):
    """Causal linear attention with random features drawn in every forward."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        draw = torch.randn(WIDTH, 8)
        q, k = (q @ draw).relu() + 0.1, (k @ draw).relu() + 0.1
        state = torch.einsum("bnm,bnc->bnmc", k, v).cumsum(1)
        return torch.einsum("bnm,bnmc->bnc", q, state) / (q * k.cumsum(1)).sum(-1, keepdim=True)


class NoisyRetention(Retention):
    """Noise on the keys in every forward."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        decay = self.decay.new_ones(LENGTH, LENGTH).tril()
        return (q @ (k + 0.1 * torch.randn_like(k)).transpose(1, 2) * decay) @ v


class Frames(nn.Module):
    """Patches of a frame see each other; over time, a patch sees earlier frames. ``[B, frames, patches, WIDTH]``, or
    the other way round where ``patches_first``; ``flat`` where the stream keeps both on one axis."""

    def __init__(self, *, patches_first: bool = False, flat: bool = False, causal: bool = True) -> None:
        super().__init__()
        self.space, self.time = Softmax(), RunningMean() if causal else Softmax()
        self.patches_first, self.flat = patches_first, flat

    def forward(self, y: Tensor) -> Tensor:
        if self.flat:
            sizes = (PATCHES, FRAMES) if self.patches_first else (FRAMES, PATCHES)
            return self.mix(y.unflatten(1, sizes)).flatten(1, 2)
        return self.mix(y)

    def mix(self, y: Tensor) -> Tensor:
        if self.patches_first:
            y = y.transpose(1, 2)
        b, t, p, c = y.shape
        y = self.space(y.reshape(b * t, p, c)).view(b, t, p, c).transpose(1, 2)
        y = self.time(y.reshape(b * p, t, c)).view(b, p, t, c)
        return y if self.patches_first else y.transpose(1, 2)


class MaskedConvolution(nn.Module):
    """A convolution over rows and columns that sees above and to the left, as in PixelCNN. ``[B, rows, columns, C]``"""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        seen = torch.ones(3, 3)
        seen[1, 2:] = seen[2] = 0
        self.register_buffer("seen", seen)

    def forward(self, y: Tensor) -> Tensor:
        conv = self.conv
        return F.conv2d(y.permute(0, 3, 1, 2), conv.weight * self.seen, conv.bias, padding=1).permute(0, 2, 3, 1)


class Columns(nn.Module):
    """A running mean along the columns alone."""

    def forward(self, y: Tensor) -> Tensor:
        return y.cumsum(2) / torch.arange(1, y.shape[2] + 1)[:, None]


class SequenceFirst(nn.Module):
    """The stream is ``[tokens, B, WIDTH]``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(self.Mixer()) for _ in range(2)])

    class Mixer(nn.Module):
        def forward(self, y: Tensor) -> Tensor:
            return y.cumsum(0) / torch.arange(1, y.shape[0] + 1)[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        for layer in self.layers:
            x = layer(x)
        return x.transpose(0, 1)


class Folded(nn.Module):
    """The stream is ``[B * tokens, WIDTH]`` throughout; attention alone unfolds it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(self.Mixer()) for _ in range(2)])

    class Mixer(Softmax):
        def forward(self, y: Tensor) -> Tensor:
            return super().forward(y.view(-1, LENGTH, WIDTH)).reshape(-1, WIDTH)

        def weights(self, scores: Tensor) -> Tensor:
            return scores.exp().tril() / scores.exp().tril().sum(-1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x.reshape(-1, WIDTH)
        for layer in self.layers:
            y = layer(y)
        return y.view(x.shape)


class LaterStage(nn.Module):
    """Tokens do not see each other; after every three are merged, the merged ones are causal."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.merge, self.second = Layer(Nothing()), nn.Linear(3 * WIDTH, WIDTH), Layer(RunningMean())

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.merge(self.first(x).unflatten(1, (-1, 3)).flatten(2)))


@dataclass(frozen=True)
class Causal:
    """A network some of whose tokens do not see others that see them.

    Attributes:
        build: makes it.
        shape: of an input, without the batch.
        prefix: whether the mean of the tokens up to each is right there (``causal=True``).
        draws: it draws random numbers.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (LENGTH, WIDTH)
    prefix: bool = True
    draws: bool = False


def stacked(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Network(make)


CAUSAL = {
    "block-causal": Causal(stacked(BlockCausal)),
    "dilated": Causal(stacked(Dilated)),
    "slopes": Causal(stacked(Slopes)),
    "where-after-softmax": Causal(stacked(WhereAfterSoftmax)),
    "int64-buffer": Causal(stacked(IntegerMask)),
    "per-head": Causal(stacked(OneHeadAhead)),
    "rotary": Causal(stacked(Rotary)),
    "selective-scan": Causal(stacked(Selective)),
    "log-sum": Causal(stacked(LogSum)),
    "gru": Causal(stacked(Gru)),
    "convolution-stem": Causal(lambda: Network(Nothing, ConvolutionStem())),
    "random-features": Causal(stacked(RandomFeatures), draws=True),
    "noise": Causal(stacked(NoisyRetention), draws=True),
    "frames": Causal(stacked(Frames), (FRAMES, PATCHES, WIDTH), prefix=False),
    "frames-last": Causal(stacked(lambda: Frames(patches_first=True)), (PATCHES, FRAMES, WIDTH), prefix=False),
    "frames-flat": Causal(stacked(lambda: Frames(flat=True)), (FRAMES * PATCHES, WIDTH)),
    "frames-flat-last": Causal(
        stacked(lambda: Frames(flat=True, patches_first=True)), (FRAMES * PATCHES, WIDTH), prefix=False
    ),
    "masked-convolution": Causal(stacked(MaskedConvolution), (3, 4, WIDTH), prefix=False),
    "columns": Causal(stacked(Columns), (3, 4, WIDTH), prefix=False),
    "sequence-first": Causal(SequenceFirst),
    "folded": Causal(Folded),
    "later-stage": Causal(LaterStage),
}


class Keeping(Projected):
    """A mixer with a mask of the tokens to keep, ``keep`` of ``[B or 1, 1, keys]`` or per pair of tokens."""

    def forward(self, y: Tensor, keep: Tensor) -> Tensor:
        weights = (self.q(y) @ self.k(y).transpose(-2, -1) * WIDTH**-0.5).exp()
        return self.out(self.kept(weights, keep) @ self.v(y))

    def kept(self, weights: Tensor, keep: Tensor) -> Tensor:
        weights = weights * keep
        return weights / weights.sum(-1, keepdim=True)


class Boolean(Keeping):
    """Weights of a softmax are replaced by zero at positions of a boolean mask."""

    def kept(self, weights: Tensor, keep: Tensor) -> Tensor:
        weights = torch.where(keep.bool(), weights / weights.sum(-1, keepdim=True), torch.zeros(()))
        return weights / weights.sum(-1, keepdim=True)


class OnTheStream(nn.Module):
    """What the mixer gets is multiplied; the mixer itself sees all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer = nn.Conv1d(WIDTH, WIDTH, 5, padding=2)

    def forward(self, y: Tensor, keep: Tensor) -> Tensor:
        return self.mixer((y * keep).transpose(1, 2)).transpose(1, 2)


class QueriesAlone(Keeping):
    """Results of tokens are multiplied, so that nothing hides a token from the others."""

    def forward(self, y: Tensor, keep: Tensor) -> Tensor:
        return super().forward(y, torch.ones(())) * (0.5 + keep.transpose(1, 2))


class Grid(nn.Module):
    """Patches of a picture, flattened, and a mask over its pixels, four to a patch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Network(Keeping)

    def forward(self, x: Tensor, pixels: Tensor) -> Tensor:
        keep = F.max_pool2d(pixels[:, None].float(), 2).flatten(1)[:, None, :]
        return self.layers(x.flatten(1, 2), keep).view(x.shape)


class OverTime(nn.Module):
    """``[B, frames, patches, WIDTH]`` and a mask over frames: padding frames are kept out of the mean over time."""

    class Mixer(nn.Module):
        def forward(self, y: Tensor, keep: Tensor) -> Tensor:
            kept = keep[:, :, None, None]
            return y + (y * kept).sum((1, 2), keepdim=True) / (kept.sum(1, keepdim=True) * y.shape[2])

    def __init__(self) -> None:
        super().__init__()
        self.layers = Network(self.Mixer)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        return self.layers(x, frames.to(x.dtype))


class Marked(nn.Module):
    """Two layers; ``how`` makes what they get out of what the user gives."""

    def __init__(self, make: Callable[[], nn.Module], how: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers, self.how = Network(make), how

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        return self.layers(x, self.how(given))


@dataclass(frozen=True)
class Padded:
    """A network and an input of it that hides tokens.

    Attributes:
        build: makes it.
        given: an example of the input.
        hiding: the same input when it hides the tokens from the sixth on (the last frame, the last row).
        shape: of the tokens, without the batch.
        hides: whether it hides tokens from each other at all.
    """

    build: Callable[[], nn.Module]
    given: Callable[[], Tensor]
    hiding: Callable[[], Tensor]
    shape: tuple[int, ...] = (LENGTH, WIDTH)
    hides: bool = True


FIRST = 6
KEPT = torch.arange(LENGTH) < FIRST
LOW = torch.finfo(torch.float32).min


def marked(
    how: Callable[[Tensor], Tensor], given: Tensor, hiding: Tensor, make: Callable[[], nn.Module] = Keeping
) -> Padded:
    return Padded(lambda: Marked(make, how), given.clone, hiding.clone, hides=make is not QueriesAlone)


def keys(given: Tensor) -> Tensor:
    return given[:, None, :].float()


def both(row: Tensor) -> Tensor:
    return row.expand(2, -1).clone()


def same(given: Tensor) -> Tensor:
    return (given[:, :, None] == given[:, None, :]).float()


PAIRS = (KEPT[:, None] == KEPT[None, :]).expand(2, -1, -1)
ONES, ALL = torch.ones(2, LENGTH), torch.ones(2, LENGTH, LENGTH)
PADDED = {
    "added": marked(lambda m: m[:, None, :].exp(), 0 * ONES, both(torch.where(KEPT, 0.0, LOW))),
    "added-in-the-middle": marked(lambda m: ((1 - keys(m)) * -1e4).exp(), ONES, both(KEPT.float())),
    "shared": marked(lambda m: m[None, None, :].float(), torch.ones(LENGTH).bool(), KEPT),
    "shared-row": marked(keys, torch.ones(1, LENGTH).long(), KEPT[None].long()),
    "shared-added": marked(lambda m: m[:, None, :].exp(), torch.zeros(1, LENGTH), torch.where(KEPT, 0.0, LOW)[None]),
    "pairs": marked(lambda m: m.float(), ALL.long(), PAIRS.long()),
    "pairs-boolean": marked(lambda m: ~m, ~ALL.bool(), ~PAIRS, Boolean),
    "pairs-of-heads": marked(lambda m: m[:, 0].float(), ALL[:, None], PAIRS[:, None].float()),
    "pairs-shared": marked(lambda m: m.exp(), torch.zeros(LENGTH, LENGTH), torch.where(PAIRS[0], 0.0, LOW)),
    "documents": marked(same, both(torch.tensor([3, 3, 3, 3, 3, 3, 3, 4, 4])), both(torch.where(KEPT, 3, 4))),
    "document-ends": marked(
        lambda ends: same(torch.bucketize(torch.arange(LENGTH), ends, right=True)[None]),
        torch.tensor([0, LENGTH, LENGTH]),
        torch.tensor([0, FIRST, LENGTH]),
    ),
    "lengths": marked(
        lambda n: (torch.arange(LENGTH) < n[:, None])[:, None, :].float(),
        torch.tensor([LENGTH, LENGTH]),
        torch.tensor([FIRST, FIRST]),
    ),
    "lengths-column": marked(
        lambda n: (torch.arange(LENGTH) < n)[:, None, :].float(),
        torch.tensor([[LENGTH], [LENGTH]]),
        torch.tensor([[FIRST], [FIRST]]),
    ),
    "boolean-after-softmax": marked(keys, ONES.long(), both(KEPT).long(), Boolean),
    "turned-round": marked(lambda m: keys(~m), ~ONES.bool(), ~both(KEPT), Boolean),
    "four-axes": marked(lambda m: m[:, 0, :, :], torch.ones(2, 1, 1, LENGTH), both(KEPT)[:, None, None, :].float()),
    "on-the-stream": marked(lambda m: m[:, :, None].float(), ONES, both(KEPT).float(), OnTheStream),
    "queries-alone": marked(keys, ONES, both(KEPT).float(), QueriesAlone),
    "pixels": Padded(
        Grid,
        lambda: torch.ones(2, 6, 8, dtype=torch.bool),
        lambda: (torch.arange(6) < 4)[None, :, None].expand(2, -1, 8).clone(),
        (3, 4, WIDTH),
    ),
    "over-time": Padded(OverTime, lambda: torch.ones(2, 3), lambda: torch.tensor([[1.0, 1.0, 0.0]] * 2), (3, 4, WIDTH)),
}
