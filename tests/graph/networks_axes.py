"""Networks whose axes have equal sizes on purpose: only the graph can tell batch, tokens and channels apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.expectations import Refusal, each, mlp, network, token_mlp
from tests.graph.parts import Attention, ConvMlp, LayerScale, Mlp

SAME = 4  # batch = tokens = channels = hidden = heads * head width, in every network of this file
ATTENTION = ("blocks.0.attn.proj", "blocks.1.attn.proj")


class SameBlock(nn.Module):
    """Attention and MLP of one size, over (B, N, C), with norms."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(SAME), nn.LayerNorm(SAME)
        self.attn, self.mlp = Attention(SAME), Mlp(SAME, SAME)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SameStack(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks or [SameBlock(), SameBlock()])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@network(SAME, SAME, SAME, blocks=each(2, "blocks.{}.mlp", mlp), attention=ATTENTION)
class SameNlc(SameStack):
    """(B, N, C), all equal."""


class SameGridBlock(SameBlock):
    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x).flatten(1, 2)).unflatten(1, (SAME, SAME))
        return x + self.mlp(self.norm2(x))


@network(
    SAME,
    SAME,
    SAME,
    SAME,
    blocks=each(2, "blocks.{}.mlp", lambda path: mlp(path, tokens=(1, 2), channel=3)),
    attention=ATTENTION,
)
class SameNhwc(SameStack):
    """(B, H, W, C), all equal."""

    def __init__(self) -> None:
        super().__init__(SameGridBlock(), SameGridBlock())


class SameChannelFirstBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, SAME), nn.GroupNorm(1, SAME)
        self.attn, self.mlp, self.scale = Attention(SAME), ConvMlp(SAME, SAME), LayerScale(SAME, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attn(self.norm1(x).flatten(2).transpose(1, 2))
        x = x + y.transpose(1, 2).unflatten(2, (SAME, SAME))
        return x + self.scale(self.mlp(self.norm2(x)))


@network(
    SAME,
    SAME,
    SAME,
    SAME,
    blocks=each(2, "blocks.{}.mlp", lambda path: mlp(path, kind="conv-mlp", tokens=(2, 3), channel=1)),
    attention=ATTENTION,
)
class SameNchw(SameStack):
    """(B, C, H, W), all equal, 1x1 convolutions."""

    def __init__(self) -> None:
        super().__init__(SameChannelFirstBlock(), SameChannelFirstBlock())


class SameMixerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(SAME), nn.LayerNorm(SAME)
        self.tokens, self.channels = Mlp(SAME, SAME), Mlp(SAME, SAME)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


@network(
    SAME,
    SAME,
    SAME,
    blocks=tuple(
        want
        for i in range(2)
        for want in (
            token_mlp(f"blocks.{i}.tokens"),
            mlp(f"blocks.{i}.channels"),
        )
    ),
)
class SameMixer(SameStack):
    """A Mixer with tokens = channels = hidden: the two MLPs have equal weights' shapes; the norm tells them apart."""

    def __init__(self) -> None:
        super().__init__(SameMixerBlock(), SameMixerBlock())


class SameTransposedMixerBlock(SameMixerBlock):
    """The stream itself is (B, C, N)."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x.transpose(1, 2)).transpose(1, 2))
        return x + self.channels(self.norm2(x.transpose(1, 2))).transpose(1, 2)


@network(
    SAME,
    SAME,
    SAME,
    blocks=tuple(
        want
        for i in range(2)
        for want in (
            token_mlp(f"blocks.{i}.tokens"),
            mlp(f"blocks.{i}.channels"),
        )
    ),
)
class SameTransposedMixer(SameStack):
    """A Mixer whose stream is (B, C, N): here the *token* MLP runs without a transpose, the channel MLP with one."""

    def __init__(self) -> None:
        super().__init__(SameTransposedMixerBlock(), SameTransposedMixerBlock())


class SameTokenFirstBlock(nn.Module):
    """(T, B, C), as fairseq and ``nn.MultiheadAttention`` have it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = nn.LayerNorm(SAME), nn.LayerNorm(SAME), Mlp(SAME, SAME)
        self.qkv, self.proj = nn.Linear(SAME, 3 * SAME), nn.Linear(SAME, SAME)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).transpose(0, 1).chunk(3, -1)
        x = x + self.proj(((q @ k.transpose(1, 2)).softmax(-1) @ v).transpose(0, 1))
        return x + self.mlp(self.norm2(x))


@network(
    SAME,
    SAME,
    SAME,
    blocks=each(2, "blocks.{}.mlp", lambda path: mlp(path, tokens=(0,), batch=(1,))),
    attention=("blocks.0.proj", "blocks.1.proj"),
)
class SameTokenFirst(SameStack):
    """(T, B, C): axis 0 is the tokens, a mean over axis 1 would mix the samples of a batch."""

    def __init__(self) -> None:
        super().__init__(SameTokenFirstBlock(), SameTokenFirstBlock())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 1)).transpose(0, 1)


class SameWindows(nn.Module):
    """Windows of 2x2 are folded into the batch for attention *and* MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([SameBlock(), SameBlock()])

    def forward(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        x = x.view(b, 2, 2, 2, 2, SAME).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, SAME)
        for block in self.blocks:
            x = block(x)
        return x.view(b, 2, 2, 2, 2, SAME).permute(0, 1, 3, 2, 4, 5).reshape(b, 4, 4, SAME)


@network(SAME, SAME, SAME, SAME, blocks=each(2, "blocks.{}.mlp", mlp), attention=ATTENTION)
class SameFoldedWindows(SameWindows):
    """(B * windows, tokens of a window, C): axis 0 depends on the batch; the tokens there are those of one window."""


@network(SAME, SAME, SAME, SAME, blocks=each(2, "blocks.{}.mlp", mlp), attention=ATTENTION)
class SameFoldedFrames(SameStack):
    """(B, frames, N, C) with the frames folded into the batch: axis 0 is batch, tokens are those of one frame."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).unflatten(0, (x.shape[0], SAME))


class SameVideoBlock(SameBlock):
    """Attention over the frames of one place, then the MLP on the unfolded video."""

    def forward(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        y = self.norm1(x).transpose(1, 2).flatten(0, 1)
        x = x + self.attn(y).unflatten(0, (b, SAME)).transpose(1, 2)
        return x + self.mlp(self.norm2(x))


@network(
    SAME,
    SAME,
    SAME,
    SAME,
    blocks=each(2, "blocks.{}.mlp", lambda path: mlp(path, tokens=(1, 2), channel=3)),
    attention=ATTENTION,
)
class SameVideo(SameStack):
    """(B, frames, N, C) with divided attention: folded for the attention alone; frames and places are both tokens."""

    def __init__(self) -> None:
        super().__init__(SameVideoBlock(), SameVideoBlock())


@network(SAME, SAME - 2, SAME, blocks=each(2, "blocks.{}.mlp", mlp), attention=ATTENTION)
class SamePrefix(SameStack):
    """Class and register tokens in front make tokens = channels = batch; they belong to the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.prefix = nn.Parameter(torch.randn(1, 2, SAME))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], 1))[:, 0]


class SamePostNormBlock(SameBlock):
    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


@network(SAME, SAME, SAME, blocks=each(2, "blocks.{}.mlp", mlp), attention=ATTENTION)
class SamePostNorm(SameStack):
    """The branch contains only the MLP: the norm after the addition shows the channel axis."""

    def __init__(self) -> None:
        super().__init__(SamePostNormBlock(), SamePostNormBlock())


class SameUnnormedBlock(SameBlock):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = self.norm2 = nn.Identity()  # type: ignore[assignment]
        self.scale1, self.scale2 = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale1 * self.attn(x)
        return x + self.scale2 * self.mlp(x)


@network(SAME, SAME, SAME, blocks=each(2, "blocks.{}.mlp", mlp), attention=ATTENTION)
class SameWithoutNorm(SameStack):
    """ReZero: no norm anywhere. The attention on the same stream mixes axis 1, so axis 1 holds the tokens."""

    def __init__(self) -> None:
        super().__init__(SameUnnormedBlock(), SameUnnormedBlock())


class BareMixerBlock(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first, self.second = Mlp(SAME, hidden), Mlp(SAME, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x.transpose(1, 2)).transpose(1, 2)
        return x + self.second(x)


BARE = tuple(Refusal("axes-undecided", f"blocks.{i}.{name}") for i in range(2) for name in ("first", "second"))


@network(SAME, SAME, SAME, rejected=BARE)
class BareMixer(SameStack):
    """A Mixer on a raw input, without norm, embedding or head: swap the axes and it is the same network.

    Nothing says which axis holds the tokens, so both MLPs are rejected rather than one of them guessed.
    """

    def __init__(self) -> None:
        super().__init__(BareMixerBlock(SAME), BareMixerBlock(SAME))


@network(2, SAME, SAME, rejected=BARE)
class BareMixerWide(SameStack):
    """The same with hidden layers of another size: sizes prove nothing about roles."""

    def __init__(self) -> None:
        super().__init__(BareMixerBlock(9), BareMixerBlock(9))


@network(
    SAME,
    3,
    SAME,
    SAME,
    blocks=tuple(
        want
        for i in range(2)
        for want in (
            token_mlp(f"blocks.{i}.first"),
            mlp(f"blocks.{i}.second"),
        )
    ),
)
class EmbeddedMixer(SameStack):
    """The bare Mixer between a patch embedding and pooling with a head: these determine the roles of the axes.

    A convolution's output channels are channels, its positions are tokens.
    """

    def __init__(self) -> None:
        super().__init__(BareMixerBlock(SAME), BareMixerBlock(SAME))
        self.patch, self.head = nn.Conv2d(3, SAME, 2, 2), nn.Linear(SAME, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(super().forward(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


class SameBatchNormBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm1d(SAME), nn.BatchNorm1d(SAME)
        self.tokens, self.channels = Mlp(SAME, SAME), Mlp(SAME, SAME)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x.transpose(1, 2))
        x = x + self.tokens(y).transpose(1, 2)
        y = self.norm2(x.transpose(1, 2)).transpose(1, 2)
        return x + F.dropout(self.channels(y), 0.1, self.training)


@network(
    SAME,
    SAME,
    SAME,
    blocks=tuple(
        want
        for i in range(2)
        for want in (
            token_mlp(f"blocks.{i}.tokens"),
            mlp(f"blocks.{i}.channels"),
        )
    ),
)
class SameBatchNormMixer(SameStack):
    """A Mixer with batch norm: it reduces over batch and tokens and keeps the channels, the other way round."""

    def __init__(self) -> None:
        super().__init__(SameBatchNormBlock(), SameBatchNormBlock())
