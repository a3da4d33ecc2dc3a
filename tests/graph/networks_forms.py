"""Networks whose difficulty is between the two projections."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.expectations import HIDDEN, WIDTH, Refusal, Want, each, mlp, network
from tests.graph.parts import Attention, Block, LayerScale, Mlp, SqueezeExcite, Stack

RAW = (2, 5, WIDTH)
ATTENTION = ("blocks.0.attn.proj", "blocks.1.attn.proj")


class SwiGlu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Linear(WIDTH, HIDDEN, bias=False), nn.Linear(WIDTH, HIDDEN, bias=False)
        self.w3 = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


def gated(path: str) -> Want:
    fc1 = (f"{path}.w1", f"{path}.w2")
    return Want(fc1, (f"{path}.w3",), "glu", end=f"{path}.w3", front=f"{path}.w1", mid=f"{path}.w3")


@network(*RAW, blocks=each(2, "blocks.{}.mlp", gated), attention=ATTENTION)
class TwoProjectionGlu(Stack):
    """Two up projections read one tensor: both are ``fc1``, and Front must reach both."""

    def __init__(self) -> None:
        super().__init__(Block(mlp=SwiGlu()), Block(mlp=SwiGlu()))


class PackedGlu(nn.Module):
    """One projection of twice the hidden width, taken apart in one of five ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.fc1, self.fc2, self.way = nn.Linear(WIDTH, 2 * HIDDEN), nn.Linear(HIDDEN, WIDTH), way

    def forward(self, x: Tensor) -> Tensor:
        packed = self.fc1(x)
        if self.way == "glu":
            return self.fc2(F.glu(packed, -1))
        if self.way == "chunk":
            gate, value = packed.chunk(2, dim=-1)
        elif self.way == "split":
            gate, value = packed.split([HIDDEN, HIDDEN], -1)
        elif self.way == "slice":
            gate, value = packed[..., :HIDDEN], packed[..., HIDDEN:]
        else:  # interleaved, as some language models pack it
            gate, value = packed[..., ::2], packed[..., 1::2]
        return self.fc2(F.gelu(gate) * value)


WAYS = ("chunk", "split", "slice", "glu", "interleaved")


@network(
    *RAW,
    blocks=each(5, "blocks.{}.mlp", lambda path: mlp(path, kind="glu")),
    attention=tuple(f"blocks.{i}.attn.proj" for i in range(5)),
)
class PackedProjectionGlu(Stack):
    """One packed up projection, split by ``chunk``, ``split``, slices, ``glu`` and strided slices.

    ``hidden`` is the width the down projection reads, not the packed one.
    """

    def __init__(self) -> None:
        super().__init__(*[Block(mlp=PackedGlu(way)) for way in WAYS])


class SubNormMlp(nn.Module):
    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.gate = nn.Linear(WIDTH, HIDDEN) if packed else None
        self.norm = nn.LayerNorm(HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(self.fc1(x))
        return self.fc2(self.norm(hidden if self.gate is None else hidden * self.gate(x)))


@network(
    *RAW,
    blocks=(
        mlp("blocks.0.mlp"),
        replace(mlp("blocks.1.mlp"), kind="glu", fc1=("blocks.1.mlp.fc1", "blocks.1.mlp.gate")),
    ),
    attention=ATTENTION,
)
class SubLayerNorm(Stack):
    """A norm right before the down projection: Mid is the down projection's input, after that norm."""

    def __init__(self) -> None:
        super().__init__(Block(mlp=SubNormMlp(False)), Block(mlp=SubNormMlp(True)))


class ResponseNormMlp(nn.Module):
    """Global response norm over the tokens, which holds an addition of its own input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.weight, self.bias = nn.Parameter(torch.rand(HIDDEN)), nn.Parameter(torch.rand(HIDDEN))

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.fc1(x))
        size = x.norm(p=2, dim=1, keepdim=True)
        scaled = x * (size / (size.mean(dim=-1, keepdim=True) + 1e-6))
        return self.fc2(x + torch.addcmul(self.bias, self.weight, scaled))


@network(*RAW, blocks=each(2, "blocks.{}.mlp", mlp), attention=ATTENTION)
class GlobalResponseNorm(Stack):
    """The norm's ``x + f(x)`` on the hidden tensor is an addition to an ancestor, but it is not the residual stream."""

    def __init__(self) -> None:
        super().__init__(Block(mlp=ResponseNormMlp()), Block(mlp=ResponseNormMlp()))


class DepthwiseMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.dwconv, self.drop = nn.Conv2d(HIDDEN, HIDDEN, 3, 1, 1, groups=HIDDEN), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        b, _, c = x.shape
        x = self.dwconv(x.transpose(1, 2).view(b, c, 3, 4)).flatten(2).transpose(1, 2)
        return self.drop(self.fc2(self.drop(F.gelu(x))))


@network(2, 12, WIDTH, blocks=each(2, "blocks.{}.mlp", mlp), attention=ATTENTION)
class DepthwiseBetween(Stack):
    """PVTv2: a depthwise convolution over the token grid, by transposing there and back, between the projections.

    It mixes neighbours, but the branch starts and ends as an MLP does: found and chosen.
    """

    def __init__(self) -> None:
        super().__init__(Block(mlp=DepthwiseMlp()), Block(mlp=DepthwiseMlp()))


class LocalFeedForward(nn.Module):
    """1x1, BN, hswish, depthwise, BN, hswish, squeeze-excite, 1x1, BN; the residual addition is inside."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn1 = nn.Conv2d(WIDTH, HIDDEN, 1, bias=False), nn.BatchNorm2d(HIDDEN)
        self.dw, self.bn2 = nn.Conv2d(HIDDEN, HIDDEN, 3, 1, 1, groups=HIDDEN, bias=False), nn.BatchNorm2d(HIDDEN)
        self.se = SqueezeExcite(HIDDEN)
        self.fc2, self.bn3 = nn.Conv2d(HIDDEN, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.bn2(self.dw(F.hardswish(self.bn1(self.fc1(x))))))
        return x + self.bn3(self.fc2(self.se(y)))


class LocalBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attn, self.conv = nn.LayerNorm(WIDTH), Attention(), LocalFeedForward()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm(x))
        cls, patches = torch.split(x, [1, 12], dim=1)
        grid = patches.transpose(1, 2).reshape(x.shape[0], WIDTH, 3, 4)
        return torch.cat([cls, self.conv(grid).flatten(2).transpose(1, 2)], 1)


@network(
    2,
    13,
    WIDTH,
    blocks=each(
        2,
        "blocks.{}.conv",
        lambda path: mlp(path, kind="conv-mlp", tokens=(2, 3), channel=1, end=f"{path}.bn3"),
    ),
    rejected=(Refusal("pooled-gate", "blocks.0.conv.se"), Refusal("pooled-gate", "blocks.1.conv.se")),
    attention=ATTENTION,
)
class LocalVit(Stack):
    """LocalViT: the feed-forward works in NCHW on the patches only, the class token goes round it.

    Built like an MBConv, but it is what follows attention in every layer of a transformer, so an expert calls it the
    layer's MLP: ``conv-mlp``, chosen by default (MBConv in a stack without attention is not). The squeeze-excite
    inside is none. There is no norm between the attention and it; End is after the last batch norm.
    """

    def __init__(self) -> None:
        super().__init__(LocalBlock(), LocalBlock())


class SpatialGatingBlock(nn.Module):
    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.gate_norm, self.spatial = nn.LayerNorm(HIDDEN), nn.Linear(tokens, tokens)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.fc1(self.norm(x))).chunk(2, dim=-1)
        v = self.spatial(self.gate_norm(v).transpose(-1, -2)).transpose(-1, -2)
        return x + self.fc2(u * v)


@network(*RAW, blocks=each(2, "blocks.{}", lambda path: mlp(path, kind="glu")))
class SpatialGating(Stack):
    """gMLP: half of the hidden tensor goes through a token projection and gates the other half.

    The up and down projections contract channels, so this is the model's channel MLP and chosen; it is ``glu``
    because the hidden tensor is split and multiplied. The token projection inside is no block of its own.
    """

    def __init__(self) -> None:
        super().__init__(SpatialGatingBlock(5), SpatialGatingBlock(5))


class Spelled(nn.Module):
    """One activation written as arithmetic."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.scale, self.bias = nn.Parameter(torch.tensor(0.9)), nn.Parameter(torch.tensor(-0.4))
        self.slope = nn.Parameter(torch.full((HIDDEN,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        if self.name == "quick-gelu":
            return x * torch.sigmoid(1.702 * x)
        if self.name == "tanh-gelu":
            return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))
        if self.name == "erf-gelu":
            return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))
        if self.name == "squared-relu":
            return torch.square(F.relu(x))
        if self.name == "relu-times-relu":
            y = F.relu(x)
            return y * y
        if self.name == "star-relu":
            return self.scale * F.relu(x) ** 2 + self.bias
        if self.name == "mish":
            return x * torch.tanh(F.softplus(x))
        if self.name == "hard-swish":
            return x * F.relu6(x + 3.0) / 6.0
        if self.name == "clamped":
            return x.clamp(min=0.0)
        if self.name == "where":
            return torch.where(x > 0, x, self.slope * x)
        return F.prelu(x, self.scale.reshape(1))


SPELLED = (
    "quick-gelu",
    "tanh-gelu",
    "erf-gelu",
    "squared-relu",
    "relu-times-relu",
    "star-relu",
    "mish",
    "hard-swish",
    "clamped",
    "where",
    "prelu",
)


class Branch(nn.Module):
    """Pre-norm MLP alone."""

    def __init__(self, mlp_module: nn.Module) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(WIDTH), mlp_module

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


@network(*RAW, blocks=each(len(SPELLED), "blocks.{}.mlp", mlp))
class ActivationsAsArithmetic(Stack):
    """Activations as products and sums of one tensor: ``x * sigmoid(1.702 x)`` is no gate, so the kind stays ``mlp``.

    The sums inside (``x + 0.044715 x^3``) add a tensor to its ancestor without being a residual of the stream.
    """

    def __init__(self) -> None:
        super().__init__(*[Branch(Mlp(act=Spelled(name))) for name in SPELLED])


class ThreeLayerMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.mid, self.fc2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, 10), nn.Linear(10, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.mid(F.relu(self.fc1(x)))))


@network(*RAW, blocks=each(2, "blocks.{}.mlp", mlp), attention=ATTENTION)
class ThreeLayers(Stack):
    """Three projections in one branch are one MLP: ``fc1`` is the first, ``fc2`` the last, Mid the last one's input."""

    def __init__(self) -> None:
        super().__init__(Block(mlp=ThreeLayerMlp()), Block(mlp=ThreeLayerMlp()))


class TokenLinear(nn.Module):
    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.linear = nn.Linear(tokens, tokens)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.transpose(1, 2)).transpose(1, 2)


class Affine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.rand(1, 1, WIDTH)), nn.Parameter(torch.rand(1, 1, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.alpha, x)


class ResMlpBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mix, self.mlp = Affine(), Affine(), TokenLinear(5), Mlp()
        self.scale1, self.scale2 = LayerScale(WIDTH), LayerScale(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale1(self.mix(self.norm1(x)))
        return x + self.scale2(self.mlp(self.norm2(x)))


@network(
    *RAW,
    blocks=each(2, "blocks.{}.mlp", mlp),
    rejected=(Refusal("single-projection", "blocks.0.mix"), Refusal("single-projection", "blocks.1.mix")),
)
class ResMlp(Stack):
    """ResMLP: an affine map (``addcmul``) where others have a norm; its (1, 1, C) parameters tell the channels.

    The token mixer is a single projection, so not an MLP at all.
    """

    def __init__(self) -> None:
        super().__init__(ResMlpBlock(), ResMlpBlock())
