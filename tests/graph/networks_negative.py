"""Networks that hold something which looks like an MLP block and is none: heads, tables, single tokens, attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.expectations import HIDDEN, WIDTH, Refusal, each, mlp, network
from tests.graph.parts import Block, CrossAttention, LayerScale, Mlp, Stack

RAW = (2, 5, WIDTH)
IMAGE = (2, WIDTH, 3, 4)
ATTENTION = ("blocks.0.attn.proj", "blocks.1.attn.proj")
MLPS = each(2, "blocks.{}.mlp", mlp)


@network(*RAW, blocks=MLPS, rejected=(Refusal("no-residual", "head"),), attention=ATTENTION)
class ClassifierHead(Stack):
    """Norm, linear, activation, linear on the pooled tokens: all of the MLP pattern but the addition."""

    def __init__(self) -> None:
        super().__init__(Block(), Block())
        self.norm, self.head = nn.LayerNorm(WIDTH), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(super().forward(x).mean(1)))


class BoxPredictor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc6, self.fc7 = nn.Linear(5 * WIDTH, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.cls, self.box = nn.Linear(HIDDEN, 3), nn.Linear(HIDDEN, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))
        return self.cls(x), self.box(x)


@network(*RAW, blocks=MLPS, rejected=(Refusal("no-residual", "head"),), attention=ATTENTION)
class TwoMlpHead(Stack):
    """Detection's two-layer head on flattened features, with two predictors: no addition."""

    def __init__(self) -> None:
        super().__init__(Block(), Block())
        self.head = BoxPredictor()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(super().forward(x))


@network(*RAW, blocks=MLPS, rejected=(Refusal("no-token-axis", "head.mlp"),), attention=ATTENTION)
class PooledResidualHead(Stack):
    """A pre-norm residual MLP on pooled features (B, C): a whole block but for the tokens."""

    def __init__(self) -> None:
        super().__init__(Block(), Block())
        self.head = nn.ModuleDict({"norm": nn.LayerNorm(WIDTH), "mlp": Mlp()})

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x).mean(1)
        return x + self.head["mlp"](self.head["norm"](x))


class BiasMlp(nn.Module):
    """Position table to one bias per head."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(2, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)))


class PositionBiasBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn, self.cpb, self.mlp = CrossAttention(), BiasMlp(), Mlp()
        self.register_buffer("table", torch.randn(9, 2))
        self.register_buffer("index", (torch.arange(5)[:, None] - torch.arange(5)[None] + 4).view(-1))

    def forward(self, x: Tensor) -> Tensor:
        bias = 16 * torch.sigmoid(self.cpb(self.table)[self.index].view(5, 5, 2).permute(2, 0, 1))
        x = x + self.norm1(self.attn(x, bias=bias.unsqueeze(0)))
        return x + self.norm2(self.mlp(x))


@network(
    *RAW,
    blocks=MLPS,
    rejected=(Refusal("not-batched", "blocks.0.cpb"), Refusal("not-batched", "blocks.1.cpb")),
    attention=ATTENTION,
)
class PositionBias(Stack):
    """SwinV2's position-bias MLP works on a table and is added to the attention scores: it does not see the batch."""

    def __init__(self) -> None:
        super().__init__(PositionBiasBlock(), PositionBiasBlock())


class PositionTableMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm, self.mlp = nn.Parameter(torch.randn(1, 5, WIDTH)), nn.LayerNorm(WIDTH), Mlp()

    def forward(self) -> Tensor:
        return self.table + self.mlp(self.norm(self.table))


@network(*RAW, blocks=MLPS, rejected=(Refusal("not-batched", "pos.mlp"),), attention=ATTENTION)
class ResidualPositionTable(Stack):
    """A whole residual MLP over a position table: tokens, channels, addition, but the same for every sample.

    Tokens of a table are positions, not the sample's; averaging them is not what the paper does.
    """

    def __init__(self) -> None:
        super().__init__(Block(), Block())
        self.pos = PositionTableMlp()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.pos())


@network(
    inputs=lambda: (torch.randn(RAW), torch.rand(2)),
    blocks=MLPS,
    rejected=(Refusal("no-residual", "time"),),
    attention=ATTENTION,
)
class TimeConditioning(nn.Module):
    """The embedding MLP's result is added to the stream, but it was not computed from the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.blocks = Mlp(act=nn.SiLU()), nn.ModuleList([Block(), Block()])
        self.register_buffer("frequencies", torch.rand(WIDTH // 2))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angles = time[:, None] * self.frequencies
        x = x + self.time(torch.cat([angles.sin(), angles.cos()], -1)).unsqueeze(1)
        for block in self.blocks:
            x = block(x)
        return x


class ClassAttentionBlock(nn.Module):
    """CaiT: the class token looks at all tokens; only it is changed."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attn, self.mlp = (
            nn.LayerNorm(WIDTH),
            nn.LayerNorm(WIDTH),
            CrossAttention(),
            Mlp(),
        )
        self.scale1, self.scale2 = LayerScale(WIDTH), LayerScale(WIDTH)

    def forward(self, x: Tensor, cls: Tensor) -> Tensor:
        u = self.norm1(torch.cat((cls, x), dim=1))
        cls = cls + self.scale1(self.attn(u[:, :1], u))
        return cls + self.scale2(self.mlp(self.norm2(cls)))


@network(*RAW, blocks=MLPS, rejected=(Refusal("one-token", "tail.mlp"),), attention=None)
class ClassAttention(Stack):
    """CaiT: after the patch layers, a layer that changes the class token alone. One token: the operator is identity."""

    def __init__(self) -> None:
        super().__init__(Block(), Block())
        self.cls, self.tail, self.norm = (
            nn.Parameter(torch.randn(1, 1, WIDTH)),
            ClassAttentionBlock(),
            nn.LayerNorm(WIDTH),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        cls = self.tail(x, self.cls.expand(x.shape[0], -1, -1))
        return self.norm(torch.cat([cls, x], 1))[:, 0]


class CatTailBlock(ClassAttentionBlock):
    """XCiT: the class token's branch is put back by ``cat`` before the addition."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        y = self.norm1(x)
        x = x + self.scale1(torch.cat([self.attn(y[:, :1], y), y[:, 1:]], dim=1))
        x = self.norm2(x)
        return x + torch.cat([self.scale2(self.mlp(x[:, :1])), x[:, 1:]], dim=1)


@network(*RAW, blocks=MLPS, rejected=(Refusal("one-token", "tail.mlp"),), attention=None)
class CatTail(Stack):
    """XCiT's class-attention tail: the branch added to the (B, N, C) stream holds N tokens, but the MLP saw one.

    The stream has tokens, the End tensor has one: the operator there would be the identity.
    """

    def __init__(self) -> None:
        super().__init__(Block(), Block())
        self.tail = CatTailBlock()

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(super().forward(x))[:, 0]


@network(*RAW, blocks=MLPS, rejected=(Refusal("one-token", "pool_mlp"),), attention=None)
class AttentionPooling(Stack):
    """A learned query pools the tokens; the residual MLP after it works on that single token."""

    def __init__(self) -> None:
        super().__init__(Block(), Block())
        self.query, self.pool = nn.Parameter(torch.randn(1, 1, WIDTH)), CrossAttention()
        self.norm, self.pool_mlp = nn.LayerNorm(WIDTH), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        x = self.pool(self.query.expand(x.shape[0], -1, -1), x)
        return (x + self.pool_mlp(self.norm(x)))[:, 0]


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(WIDTH, 2), nn.Linear(2, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


class LowRankBlock(Block):
    def __init__(self) -> None:
        super().__init__()
        self.norm3, self.low = nn.LayerNorm(WIDTH), LowRank()

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x + self.low(self.norm3(x))


@network(
    *RAW,
    blocks=MLPS,
    rejected=(Refusal("no-activation", "blocks.0.low"), Refusal("no-activation", "blocks.1.low")),
    attention=ATTENTION,
)
class LowRankPair(Stack):
    """Two linears without a non-linearity between them are one linear map, not an MLP."""

    def __init__(self) -> None:
        super().__init__(LowRankBlock(), LowRankBlock())


class GatedAttention(nn.Module):
    """A sigmoid gate on the attention's result: the shape of a gated MLP, with attention as one arm."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.qkv, self.proj = (
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, 3 * WIDTH),
            nn.Linear(WIDTH, WIDTH),
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(F.silu(self.gate(x)) * F.scaled_dot_product_attention(q, k, v))


class GatedAttentionBlock(Block):
    def __init__(self) -> None:
        super().__init__()
        self.attn = GatedAttention()


@network(*RAW, blocks=MLPS, attention=ATTENTION)
class GatedAttentionBranch(Stack):
    """Two first projections, an activation, a product, a last projection, an addition: attention, not ``glu``."""

    def __init__(self) -> None:
        super().__init__(GatedAttentionBlock(), GatedAttentionBlock())


class LinearAttention(nn.Module):
    """Kernel attention: activations on queries and keys, two products of activations, no softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1, self.v(x)
        return self.proj(q @ (k.transpose(1, 2) @ v) / (q @ k.sum(1, keepdim=True).transpose(1, 2)))


class LinearAttentionBlock(Block):
    def __init__(self) -> None:
        super().__init__()
        self.attn = LinearAttention()


@network(*RAW, blocks=MLPS, attention=None)
class LinearAttentionBranch(Stack):
    """Projection, activation, projection with a product of two activations between: tokens are mixed, so no MLP.

    Whether attention without softmax is listed as attention is left open here.
    """

    def __init__(self) -> None:
        super().__init__(LinearAttentionBlock(), LinearAttentionBlock())


class CumulativeBlock(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x)).cumsum(1)


@network(
    *RAW,
    rejected=(Refusal("not-elementwise", "blocks.0.mlp"), Refusal("not-elementwise", "blocks.1.mlp")),
    attention=ATTENTION,
)
class SumOverTokens(Stack):
    """A running sum over the tokens between the down projection and the addition."""

    def __init__(self) -> None:
        super().__init__(CumulativeBlock(), CumulativeBlock())


class BoxLayer(nn.Module):
    """Deformable DETR: queries see their boxes through an MLP, and boxes are refined by another."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Sequential(nn.Linear(4, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH))
        self.layer = Block()
        self.box = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 4))

    def forward(self, x: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        x = self.layer(x + self.position(box))
        return x, (box + self.box(x)).sigmoid()


@network(
    inputs=lambda: (torch.randn(RAW), torch.rand(2, 5, 4)),
    blocks=each(2, "layers.{}.layer.mlp", mlp),
    attention=("layers.0.layer.attn.proj", "layers.1.layer.attn.proj"),
)
class IteratedBoxes(nn.Module):
    """The box MLP's result *is* added to one of its ancestors (the box), through a whole decoder layer between.

    Neither the box head nor the position MLP is an MLP of the query stream. The reasons are not tested.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([BoxLayer(), BoxLayer()])

    def forward(self, x: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            x, box = layer(x, box)
        return x, box
