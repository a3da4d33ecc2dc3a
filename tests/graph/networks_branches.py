"""Networks whose trap is how the branch leaves the stream and returns to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.expectations import HIDDEN, WIDTH, each, mlp, network
from tests.graph.parts import Attention, LayerScale, Mlp, Stack

RAW = (2, 5, WIDTH)
ATTENTION = ("blocks.0.attn.proj", "blocks.1.attn.proj")
MLPS = each(2, "blocks.{}.mlp", mlp)


class Parts(nn.Module):
    """Attention, MLP and two norms, for a subclass to wire."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attn, self.mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Attention(), Mlp()


class PostNormBlock(Parts):
    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attn(x))
        return self.norm2(self.mlp(x) + x)


@network(*RAW, blocks=MLPS, attention=ATTENTION)
class PostNorm(Stack):
    """No norm before the MLP: its input is the stream itself, so Front must feed the MLP and leave the addition."""

    def __init__(self) -> None:
        super().__init__(PostNormBlock(), PostNormBlock())


class ResPostNormBlock(Parts):
    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm1(self.attn(x))
        return x + self.norm2(self.mlp(x))


@network(*RAW, blocks=MLPS, attention=ATTENTION)
class ResPostNorm(Stack):
    """SwinV2: a norm between the down projection and the addition. End is before that norm (they do not commute)."""

    def __init__(self) -> None:
        super().__init__(ResPostNormBlock(), ResPostNormBlock())


class SandwichBlock(Parts):
    def __init__(self) -> None:
        super().__init__()
        self.norm3, self.norm4 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm3(self.attn(self.norm1(x)))
        return x + self.norm4(self.mlp(self.norm2(x)))


@network(*RAW, blocks=MLPS, attention=ATTENTION)
class SandwichNorm(Stack):
    """A norm on both ends of the branch; the second one is an RMS norm."""

    def __init__(self) -> None:
        super().__init__(SandwichBlock(), SandwichBlock())


class HandMadeRms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.float32)
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class HandMadeNormBlock(Parts):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = HandMadeRms(), HandMadeRms()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@network(*RAW, blocks=MLPS, attention=ATTENTION)
class HandMadeNorm(Stack):
    """RMS norm spelled out (Llama, T5): powers, a mean over the channels, a product. No norm operator in the graph."""

    def __init__(self) -> None:
        super().__init__(HandMadeNormBlock(), HandMadeNormBlock())


class LayerScaleBlock(Parts):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.scale1, self.scale2, self.fused = LayerScale(WIDTH), LayerScale(WIDTH), fused

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale1(self.attn(self.norm1(x)))
        branch = self.mlp(self.norm2(x))
        return torch.addcmul(x, self.scale2.gamma, branch) if self.fused else x + self.scale2(branch)


@network(*RAW, blocks=MLPS, attention=ATTENTION)
class LayerScaled(Stack):
    """Layer scale as a product, and fused with the residual addition into ``addcmul``: End is before both."""

    def __init__(self) -> None:
        super().__init__(LayerScaleBlock(False), LayerScaleBlock(True))


class ScaledResidualBlock(Parts):
    def __init__(self) -> None:
        super().__init__()
        self.res1, self.res2 = LayerScale(WIDTH), LayerScale(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.res1(x) + self.attn(self.norm1(x))
        return self.res2(x) + self.mlp(self.norm2(x))


@network(*RAW, blocks=MLPS, attention=ATTENTION)
class ScaledResidual(Stack):
    """MetaFormer: the stream is multiplied by a parameter on its way to the addition."""

    def __init__(self) -> None:
        super().__init__(ScaledResidualBlock(), ScaledResidualBlock())


class MacaronBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(4)])
        self.first, self.attn, self.last = Mlp(), Attention(), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.add(x, self.first(self.norms[0](x)), alpha=0.5)
        x = x + self.attn(self.norms[1](x))
        return self.norms[3](x + 0.5 * self.last(self.norms[2](x)))


@network(
    *RAW,
    blocks=tuple(mlp(f"blocks.{i}.{name}") for i in range(2) for name in ("first", "last")),
    attention=ATTENTION,
)
class HalfSteps(Stack):
    """Conformer's macaron pair: the branch is halved, once by ``add(alpha=0.5)`` and once by a product. Two MLPs."""

    def __init__(self) -> None:
        super().__init__(MacaronBlock(), MacaronBlock())


class DropPath(nn.Module):
    """Stochastic depth per sample, in timm's way or in that of transformers."""

    def __init__(self, floor: bool) -> None:
        super().__init__()
        self.keep, self.floor = 0.8, floor

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shape = (x.shape[0],) + (1,) * (x.dim() - 1)
        if self.floor:
            return x.div(self.keep) * (self.keep + torch.rand(shape, dtype=x.dtype, device=x.device)).floor_()
        return x * x.new_empty(shape).bernoulli_(self.keep).div_(self.keep)


class DropPathBlock(Parts):
    def __init__(self, floor: bool) -> None:
        super().__init__()
        self.path1, self.path2, self.scale = DropPath(floor), DropPath(floor), LayerScale(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.path1(self.attn(self.norm1(x)))
        return x + self.path2(self.scale(self.mlp(self.norm2(x))))


@network(
    *RAW,
    blocks=each(2, "blocks.{}.mlp", lambda path: mlp(path, end=None, mid=None, front=None)),
    attention=ATTENTION,
    training=True,
)
class DropPathInTraining(Stack):
    """A program captured in training mode: the branch is multiplied by a random mask of shape (B, 1, 1).

    The mask's batch axis is data of the batch but not of the stream. Numbers are random, so only structure is compared.
    """

    def __init__(self) -> None:
        super().__init__(DropPathBlock(True), DropPathBlock(False))


class ParallelBlock(Parts):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        return x + self.attn(y) + self.mlp(y)


class ReversedParallelBlock(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.attn(self.norm1(x)) + self.mlp(self.norm2(x)) + x


@network(*RAW, blocks=MLPS, attention=ATTENTION)
class ParallelBranches(Stack):
    """Attention and MLP on one stream: ``x + f + g``, and ``(f + g) + x`` where the branches meet before the stream.

    In the first block they share a norm, so Front must reach the MLP only.
    """

    def __init__(self) -> None:
        super().__init__(ParallelBlock(), ReversedParallelBlock())


class SeveralBlock(nn.Module):
    """Two attentions, then two MLPs, each pair on one stream."""

    def __init__(self, stacked: bool) -> None:
        super().__init__()
        self.stacked = stacked
        self.attns, self.mlps = nn.ModuleList([Attention(), Attention()]), nn.ModuleList([Mlp(), Mlp()])
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.attns[0](self.norms[0](x)), self.attns[1](self.norms[1](x))
        x = x + (torch.stack([a, b]).sum(dim=0) if self.stacked else a + b)
        a, b = self.mlps[0](self.norms[2](x)), self.mlps[1](self.norms[3](x))
        return x + torch.stack([a, b]).sum(dim=0) if self.stacked else x + a + b


SEVERAL = tuple(mlp(f"blocks.{i}.mlps.{j}") for i in range(2) for j in range(2))


SEVERAL_ATTENTION = tuple(f"blocks.{i}.attns.{j}.proj" for i in range(2) for j in range(2))


@network(*RAW, blocks=SEVERAL, attention=SEVERAL_ATTENTION)
class SeveralOnOneStream(Stack):
    """Two MLPs read one stream and are added to it: two blocks. One layer adds by ``stack(...).sum(0)``."""

    def __init__(self) -> None:
        super().__init__(SeveralBlock(False), SeveralBlock(True))


class FusedInputBlock(nn.Module):
    """One projection makes q, k, v and the MLP's hidden tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.in_proj = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, HIDDEN + 3 * WIDTH)
        self.mlp_out, self.attn_out = nn.Linear(HIDDEN, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        hidden, q, k, v = torch.split(self.in_proj(self.norm(x)), [HIDDEN, WIDTH, WIDTH, WIDTH], dim=-1)
        attended = self.attn_out(F.scaled_dot_product_attention(q, k, v))
        return x + self.mlp_out(F.gelu(hidden)) + attended


@network(
    *RAW,
    blocks=each(
        2,
        "blocks.{}",
        lambda path: mlp(path, "in_proj", "mlp_out", unavailable=("front",), front=None),
    ),
    attention=("blocks.0.attn_out", "blocks.1.attn_out"),
)
class FusedInputProjection(Stack):
    """ViT-22B: the input projection is shared with the attention, so there is no tensor at Front of the MLP alone.

    The kind is ``mlp``: the projection is packed, but its parts are not multiplied.
    """

    def __init__(self) -> None:
        super().__init__(FusedInputBlock(), FusedInputBlock())


class Output(nn.Module):
    """The down projection with the residual addition inside, as ViLT and mmcv have it."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.dropout = nn.Linear(HIDDEN, WIDTH), nn.Dropout(0.1)

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        return self.dropout(self.dense(hidden)) + x


class ResidualInsideBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attn = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Attention()
        self.intermediate, self.output = nn.Linear(WIDTH, HIDDEN), Output()

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn(self.norm1(x)) + x
        return self.output(F.gelu(self.intermediate(self.norm2(x))), x)


@network(
    *RAW,
    blocks=each(2, "blocks.{}", lambda path: mlp(path, "intermediate", "output.dense")),
    attention=ATTENTION,
)
class ResidualInside(Stack):
    """ViLT: the module that holds the down projection also adds the stream, so its output is no End site."""

    def __init__(self) -> None:
        super().__init__(ResidualInsideBlock(), ResidualInsideBlock())


class InPlaceBlock(Parts):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = Mlp(act=nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        x += self.mlp(self.norm2(x))
        return x


@network(*RAW, blocks=MLPS, attention=ATTENTION)
class InPlaceOperations(Stack):
    """``relu_`` and ``+=``: operators that write into their input stay in the graph, under names of their own."""

    def __init__(self) -> None:
        super().__init__(InPlaceBlock(), InPlaceBlock())


class PermutedBlock(nn.Module):
    """NCHW stream, NHWC inside the branches."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attn, self.mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Attention(), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x.permute(0, 2, 3, 1))
        x = x + self.attn(y.flatten(1, 2)).view(y.shape).permute(0, 3, 1, 2)
        return x + self.mlp(self.norm2(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


@network(
    2,
    WIDTH,
    3,
    4,
    blocks=each(2, "blocks.{}.mlp", lambda path: mlp(path, tokens=(1, 2), channel=3)),
    attention=ATTENTION,
)
class PermutedBranch(Stack):
    """The stream is NCHW, the MLP works in NHWC: the End tensor's tokens are axes 1 and 2, unlike the stream's."""

    def __init__(self) -> None:
        super().__init__(PermutedBlock(), PermutedBlock())


class ModulatedBlock(Parts):
    """DiT: shift, scale and gate come from a condition."""

    def __init__(self) -> None:
        super().__init__()
        self.modulation = nn.Linear(WIDTH, 6 * WIDTH)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        parts = self.modulation(F.silu(condition)).unsqueeze(1).chunk(6, dim=-1)
        x = x + parts[0] * self.attn(self.norm1(x) * (1 + parts[1]) + parts[2])
        return x + parts[3] * self.mlp(self.norm2(x) * (1 + parts[4]) + parts[5])


@network(
    inputs=lambda: (torch.randn(2, 5, WIDTH), torch.randn(2, WIDTH)),
    blocks=MLPS,
    attention=ATTENTION,
)
class Modulated(nn.Module):
    """DiT: the branch is multiplied by a gate that depends on the sample but not on the stream. End is before it."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([ModulatedBlock(), ModulatedBlock()])

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, condition)
        return x


class FunctionalDropoutBlock(Parts):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        del self.mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        y = self.fc2(F.dropout(F.gelu(self.fc1(self.norm2(x))), 0.1, self.training))
        return x + F.dropout(y, 0.1, self.training)


@network(*RAW, blocks=each(2, "blocks.{}", mlp), attention=ATTENTION)
class FunctionalDropout(Stack):
    """Dropout as a function: no module ends after it, so the module hook runs before it, and the block has a note about
    it."""

    def __init__(self) -> None:
        super().__init__(FunctionalDropoutBlock(), FunctionalDropoutBlock())
