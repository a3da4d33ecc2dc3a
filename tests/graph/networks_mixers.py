"""Convolutions, pooled gates and token mixers that look like an MLP block, or are blocks that are not chosen by
default."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.expectations import HIDDEN, WIDTH, Refusal, each, mlp, network, token_mlp
from tests.graph.parts import Attention, Block, ConvMlp, LayerScale, Mlp, SqueezeExcite, Stack

RAW = (2, 5, WIDTH)
IMAGE = (2, WIDTH, 3, 4)
ATTENTION = ("blocks.0.attn.proj", "blocks.1.attn.proj")
MLPS = each(2, "blocks.{}.mlp", mlp)


class SqueezeExciteBlock(nn.Module):
    """Squeeze-excite between attention and MLP, on (B, N, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn, self.se, self.mlp = Attention(), Mlp(act=nn.ReLU()), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        y = self.attn(self.norm1(x))
        x = x + y * self.se(y.mean(1, keepdim=True)).sigmoid()
        return x + self.mlp(self.norm2(x))


@network(
    *RAW,
    blocks=MLPS,
    rejected=(Refusal("pooled-gate", "blocks.0.se"), Refusal("pooled-gate", "blocks.1.se")),
    attention=ATTENTION,
)
class SqueezeExciteInBranch(Stack):
    """The gate sits between the attention's last projection and the addition, where layer scale would: no MLP."""

    def __init__(self) -> None:
        super().__init__(SqueezeExciteBlock(), SqueezeExciteBlock())


class LocalInteraction(nn.Module):
    """Depthwise 3x3, GELU, batch norm, depthwise 3x3."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(WIDTH, WIDTH, 3, 1, 1, groups=WIDTH) for _ in range(2))
        self.bn = nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.transpose(1, 2).reshape(x.shape[0], WIDTH, 3, 4)
        return self.conv2(self.bn(F.gelu(self.conv1(grid)))).flatten(2).transpose(1, 2)


class XcitBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(3)])
        self.attn, self.lpi, self.mlp = Attention(), LocalInteraction(), Mlp()
        self.scales = nn.ModuleList([LayerScale(WIDTH) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scales[0](self.attn(self.norms[0](x)))
        x = x + self.scales[1](self.lpi(self.norms[1](x)))
        return x + self.scales[2](self.mlp(self.norms[2](x)))


@network(
    2,
    12,
    WIDTH,
    blocks=MLPS,
    rejected=(Refusal("spatial-convolution", "blocks.0.lpi"), Refusal("spatial-convolution", "blocks.1.lpi")),
    attention=ATTENTION,
)
class LocalPatchInteraction(Stack):
    """XCiT's LPI: norm, conv, GELU, batch norm, conv, layer scale, addition, but the convolutions are spatial."""

    def __init__(self) -> None:
        super().__init__(XcitBlock(), XcitBlock())


class BottleneckBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv3 = nn.Conv2d(WIDTH, 4, 1), nn.Conv2d(4, WIDTH, 1)
        self.conv2 = nn.Conv2d(4, 4, 3, 1, 1)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(x + self.bn3(self.conv3(y)))


@network(
    *IMAGE,
    rejected=(Refusal("spatial-convolution", "blocks.0"), Refusal("spatial-convolution", "blocks.1")),
)
class ResNetBottleneck(Stack):
    """1x1, dense 3x3, 1x1: up and down projection are pointwise, but the one between mixes channels in space."""

    def __init__(self) -> None:
        super().__init__(BottleneckBlock(), BottleneckBlock())


class BasicBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), nn.Conv2d(WIDTH, WIDTH, 3, 1, 1)
        self.bn1, self.bn2 = nn.BatchNorm2d(WIDTH), nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


@network(
    *IMAGE,
    rejected=(Refusal("spatial-convolution", "blocks.0"), Refusal("spatial-convolution", "blocks.1")),
)
class ResNetBasic(Stack):
    """Two 3x3 convolutions with an activation between them."""

    def __init__(self) -> None:
        super().__init__(BasicBlock(), BasicBlock())


class MobileBlock(nn.Module):
    """MBConv: expand, depthwise, squeeze-excite, project."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn1 = nn.Conv2d(WIDTH, HIDDEN, 1, bias=False), nn.BatchNorm2d(HIDDEN)
        self.dw, self.bn2 = nn.Conv2d(HIDDEN, HIDDEN, 3, 1, 1, groups=HIDDEN, bias=False), nn.BatchNorm2d(HIDDEN)
        self.se = SqueezeExcite(HIDDEN)
        self.fc2, self.bn3 = nn.Conv2d(HIDDEN, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.bn2(self.dw(F.silu(self.bn1(self.fc1(x))))))
        return x + self.bn3(self.fc2(self.se(y)))


@network(
    *IMAGE,
    blocks=each(
        2,
        "blocks.{}",
        lambda path: mlp(path, kind="inverted-bottleneck", tokens=(2, 3), channel=1, default=False, end=f"{path}.bn3"),
    ),
    rejected=(Refusal("pooled-gate", "blocks.0.se"), Refusal("pooled-gate", "blocks.1.se")),
)
class InvertedBottleneck(Stack):
    """MBConv in a stack without attention: it is the mixer and the MLP in one, reported but not chosen."""

    def __init__(self) -> None:
        super().__init__(MobileBlock(), MobileBlock())


class ConvNextBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dw, self.norm = nn.Conv2d(WIDTH, WIDTH, 7, 1, 3, groups=WIDTH), nn.LayerNorm(WIDTH)
        self.fc1, self.fc2, self.scale = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH), LayerScale(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        return x + self.scale(self.fc2(F.gelu(self.fc1(y)))).permute(0, 3, 1, 2)


@network(
    *IMAGE,
    blocks=each(
        2,
        "blocks.{}",
        lambda path: mlp(path, kind="inverted-bottleneck", tokens=(1, 2), channel=3, default=False),
    ),
)
class ConvNext(Stack):
    """Depthwise convolution, norm and MLP in one branch: a convolution block, not the MLP of a transformer layer."""

    def __init__(self) -> None:
        super().__init__(ConvNextBlock(), ConvNextBlock())


class MixerBlock(nn.Module):
    def __init__(self, tokens: int = 5) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp_tokens, self.mlp_channels = Mlp(tokens, 6), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


MIXER = tuple(
    want
    for i in range(2)
    for want in (
        token_mlp(f"blocks.{i}.mlp_tokens"),
        mlp(f"blocks.{i}.mlp_channels"),
    )
)


@network(*RAW, blocks=MIXER)
class Mixer(Stack):
    """The token MLP contracts the token axis of (B, C, N): its End has tokens at axis 2, where ``dim=1`` is wrong."""

    def __init__(self) -> None:
        super().__init__(MixerBlock(), MixerBlock())


class ConvMixerBlock(nn.Module):
    """The Mixer as it is often rewritten: 1x1 ``conv1d`` over (B, N, C) contracts the *tokens*."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Mlp()
        self.fc1, self.fc2 = nn.Conv1d(5, 6, 1), nn.Conv1d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.fc2(F.gelu(self.fc1(self.norm1(x))))
        return x + self.mlp(self.norm2(x))


@network(
    *RAW,
    blocks=tuple(
        want for i in range(2) for want in (token_mlp(f"blocks.{i}", tokens=(1,), channel=2), mlp(f"blocks.{i}.mlp"))
    ),
)
class MixerByConv1d(Stack):
    """Axis 1 is a convolution's "channel", and yet the tokens: the norm over axis 2 says which is which."""

    def __init__(self) -> None:
        super().__init__(ConvMixerBlock(), ConvMixerBlock())


class ConvStem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, WIDTH, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


@network(2, 3, 8, 12, blocks=MLPS, attention=ATTENTION)
class ConvPatchEmbedding(Stack):
    """Convolution, activation, 1x1 convolution, activation, patch convolution, with positions added: no block."""

    def __init__(self) -> None:
        super().__init__(Block(), Block())
        self.stem, self.pos = ConvStem(), nn.Parameter(torch.randn(1, 6, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.stem(x).flatten(2).transpose(1, 2) + self.pos)


@network(*IMAGE, rejected=(Refusal("no-residual", "mlp"),))
class SegmentationHead(nn.Module):
    """1x1 convolution, activation, 1x1 convolution after a 3x3 one: a dense predictor, nothing is added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.mlp = nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), nn.BatchNorm2d(WIDTH), ConvMlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(F.relu(self.bn(self.conv(x))))


class DeltaRuleBlock(nn.Module):
    """The delta rule of linear attention in closed form: a triangular system mixes the values."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.mlp = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        k = F.normalize(self.k(y), dim=-1)
        system = torch.eye(x.shape[1]) + (k @ k.mT).tril(-1)
        x = x + (self.q(y) @ k.mT).tril() @ torch.linalg.solve_triangular(system, self.v(y), upper=False)
        return x + self.mlp(self.norm2(x))


@network(*RAW, blocks=MLPS)
class DeltaRule(Stack):
    """The result of a system has the axes of its right-hand side, not those of its matrix."""

    def __init__(self) -> None:
        super().__init__(DeltaRuleBlock(), DeltaRuleBlock())
