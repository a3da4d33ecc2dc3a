"""Networks whose trap is how a projection is written."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.expectations import HIDDEN, WIDTH, Want, each, mlp, network
from tests.graph.parts import Attention, Block, ConvMlp, LayerScale, Stack

RAW = (2, 5, WIDTH)  # batch, tokens, channels
IMAGE = (2, WIDTH, 3, 4)  # batch, channels, height, width
ATTENTION = ("blocks.0.attn.proj", "blocks.1.attn.proj")


@network(2, 3, 8, 12, blocks=each(2, "blocks.{}.mlp", mlp), attention=ATTENTION)
class VisionTransformer(nn.Module):
    """The plain case, whole: patch embedding, class token, position table, pre-norm blocks, head.

    Neither the patch embedding nor the head nor the attention's projections may come out as a block.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.cls = nn.Conv2d(3, WIDTH, 4, 4), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos = nn.Parameter(torch.randn(1, 7, WIDTH))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Conv1D(nn.Module):
    """A projection as GPT-2 writes it: the weight is (in, out), the input is folded to two axes for ``addmm``."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(features, out)), nn.Parameter(torch.randn(out))
        self.out = out

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.size()[:-1], self.out)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(shape)


class Conv1DMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c_fc, self.c_proj, self.dropout = Conv1D(WIDTH, HIDDEN), Conv1D(HIDDEN, WIDTH), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x))))


@network(*RAW, blocks=each(2, "blocks.{}.mlp", lambda path: mlp(path, "c_fc", "c_proj")), attention=ATTENTION)
class AddmmProjections(Stack):
    """``addmm`` sees batch and tokens folded into one axis: the End site is the unfolded (B, N, C) tensor after it."""

    def __init__(self) -> None:
        super().__init__(Block(mlp=Conv1DMlp()), Block(mlp=Conv1DMlp()))


class MatmulMlp(nn.Module):
    """Projections as ``@`` with parameters of this module."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(WIDTH, HIDDEN)), nn.Parameter(torch.randn(HIDDEN, WIDTH))
        self.up_bias, self.down_bias = nn.Parameter(torch.randn(HIDDEN)), nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x @ self.up + self.up_bias) @ self.down + self.down_bias


def parameters_of(path: str) -> Want:
    """A block whose projections are operations of one module: the module is its path, no module is a projection."""
    return Want((), (), end=path, front=path)


@network(*RAW, blocks=each(2, "blocks.{}.mlp", parameters_of), attention=ATTENTION)
class MatmulProjections(Stack):
    """``x @ W + b``: the bias is an addition whose other operand is a parameter, not a residual; End is after it."""

    def __init__(self) -> None:
        super().__init__(Block(mlp=MatmulMlp()), Block(mlp=MatmulMlp()))


class EinsumMlp(MatmulMlp):
    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(torch.einsum("bnc,ch->bnh", x, self.up))
        return torch.einsum("bnh,hc->bnc", hidden, self.down)


@network(*RAW, blocks=each(2, "blocks.{}.mlp", parameters_of), attention=ATTENTION)
class EinsumProjections(Stack):
    """``einsum`` with a parameter: the contracted axis follows from the equation, not from the operator."""

    def __init__(self) -> None:
        super().__init__(Block(mlp=EinsumMlp()), Block(mlp=EinsumMlp()))


@network(*RAW, blocks=(Want((), ()), Want((), ())), attention=("", ""))
class FunctionalParameters(nn.Module):
    """No module but the root: raw parameters, functional calls. Paths are empty, sites exist in the program alone."""

    def __init__(self) -> None:
        super().__init__()
        c, h = WIDTH, HIDDEN
        shapes = [(c,), (c,), (3 * c, c), (c, c), (c,), (c,), (h, c), (h,), (c, h), (c,)] * 2
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(shape)) for shape in shapes])

    def forward(self, x: Tensor) -> Tensor:
        for layer in range(2):
            g1, b1, qkv, proj, g2, b2, up, up_bias, down, down_bias = list(self.weights)[10 * layer : 10 * layer + 10]
            q, k, v = F.linear(F.layer_norm(x, (WIDTH,), g1, b1), qkv).chunk(3, -1)
            x = x + F.linear(F.scaled_dot_product_attention(q, k, v), proj)
            y = F.layer_norm(x, (WIDTH,), g2, b2)
            x = x + F.linear(F.gelu(F.linear(y, up, up_bias)), down, down_bias)
        return x


class TiedMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bias = nn.Linear(WIDTH, HIDDEN), nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(self.fc1(x)), self.fc1.weight.t(), self.bias)


@network(
    *RAW,
    blocks=each(2, "blocks.{}.mlp", lambda path: Want((f"{path}.fc1",), (), end=path, front=f"{path}.fc1")),
    attention=ATTENTION,
)
class TransposedWeight(Stack):
    """The second projection uses the first one's weight transposed: a projection's weight may come through a step."""

    def __init__(self) -> None:
        super().__init__(Block(mlp=TiedMlp()), Block(mlp=TiedMlp()))


class LoRA(nn.Module):
    """A linear and its low-rank correction, scaled."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.base, self.dropout = nn.Linear(features, out), nn.Dropout(0.1)
        self.down, self.up = nn.Linear(features, 2, bias=False), nn.Linear(2, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(self.dropout(x))) * 0.5


class LoraMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = LoRA(WIDTH, HIDDEN), nn.GELU(), LoRA(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


def adapted(path: str) -> Want:
    fc1, fc2 = f"{path}.fc1", f"{path}.fc2"
    return Want((f"{fc1}.*",), (f"{fc2}.*",), end=fc2, front=fc1, mid=fc2)


@network(*RAW, blocks=each(2, "blocks.{}.mlp", adapted), attention=ATTENTION)
class LoraProjections(Stack):
    """The correction's addition joins two paths from one tensor, but is no residual; End is after that addition.

    Front and Mid feed both paths, so the operator must reach both. Paths may name the wrapper or the base linear.
    """

    def __init__(self) -> None:
        super().__init__(Block(mlp=LoraMlp()), Block(mlp=LoraMlp()))


@network(
    *IMAGE,
    blocks=each(2, "blocks.{}", lambda path: mlp(f"{path}.mlp", kind="conv-mlp", tokens=(2, 3), channel=1)),
)
class PoolFormer(Stack):
    """1x1 convolutions in NCHW, and a mixer ``pool(x) - x`` that looks like Context Broadcasting itself, without one.

    The stream's tokens are axes 2 and 3. The MLP branch is pure (no spatial step), so it is chosen by default.
    """

    def __init__(self) -> None:
        super().__init__(PoolBlock(), PoolBlock())


class PoolBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, WIDTH), nn.GroupNorm(1, WIDTH)
        self.scale1, self.scale2 = LayerScale(WIDTH, 1, 1), LayerScale(WIDTH, 1, 1)
        self.mlp = ConvMlp()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.scale1(F.avg_pool2d(y, 3, 1, 1, count_include_pad=False) - y)
        return x + self.scale2(self.mlp(self.norm2(x)))


class Conv1dBlock(nn.Module):
    """A stream in (B, C, L): attention on its transpose, MLP by 1x1 convolution on the stream itself."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn, self.fc1, self.fc2 = Attention(), nn.Conv1d(WIDTH, HIDDEN, 1), nn.Conv1d(HIDDEN, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x.transpose(1, 2))).transpose(1, 2)
        return x + self.fc2(F.relu(self.fc1(self.norm2(x.transpose(1, 2)).transpose(1, 2))))


@network(
    2,
    WIDTH,
    5,
    blocks=each(2, "blocks.{}", lambda path: mlp(path, kind="conv-mlp", tokens=(2,), channel=1)),
    attention=ATTENTION,
)
class PointwiseConv1d(Stack):
    """1x1 ``conv1d`` contracts axis 1: the channels, as the norm on the transposed stream proves."""

    def __init__(self) -> None:
        super().__init__(Conv1dBlock(), Conv1dBlock())


class BatchNormConvMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm1, self.act = nn.Conv2d(WIDTH, HIDDEN, 1), nn.BatchNorm2d(HIDDEN), nn.GELU()
        self.fc2, self.norm2, self.drop = nn.Conv2d(HIDDEN, WIDTH, 1), nn.BatchNorm2d(WIDTH), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm2(self.fc2(self.act(self.norm1(self.fc1(x))))))


class BatchNormBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attn, self.mlp = nn.LayerNorm(WIDTH), Attention(), BatchNormConvMlp()
        self.scale1, self.scale2 = LayerScale(WIDTH, 1, 1), LayerScale(WIDTH, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attn(self.norm(x.flatten(2).transpose(1, 2)))
        x = x + self.scale1(y.transpose(1, 2).reshape(x.shape))
        return x + self.scale2(self.mlp(x))


@network(
    *IMAGE,
    blocks=each(
        2,
        "blocks.{}.mlp",
        lambda path: mlp(path, kind="conv-mlp", tokens=(2, 3), channel=1, end=f"{path}.norm2"),
    ),
    attention=ATTENTION,
)
class ConvBatchNorm(Stack):
    """Convolution and batch norm are one projection (deployment folds them): End is after the batch norm.

    There is no norm before the MLP, the layer scale is (C, 1, 1).
    """

    def __init__(self) -> None:
        super().__init__(BatchNormBlock(), BatchNormBlock())


class LinearBatchNorm(nn.Module):
    """A linear and a batch norm over batch and tokens folded together, as LeViT has it."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.c, self.bn = nn.Linear(features, out, bias=False), nn.BatchNorm1d(out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(x)
        return self.bn(x.flatten(0, 1)).reshape_as(x)


class Residual(nn.Module):
    """Adds a module's result to its input."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(x)


def levit(path: str) -> Want:
    return Want((f"{path}.0.*",), (f"{path}.2.*",), end=f"{path}.2", front=f"{path}.0", mid=f"{path}.2")


@network(*RAW, blocks=(levit("blocks.1.fn"), levit("blocks.3.fn")), attention=("blocks.0.fn.proj", "blocks.2.fn.proj"))
class LinearBatchNormBranch(Stack):
    """Batch norm on (B*N, C) inside both projections: tokens are folded there, and unfolded again at every site."""

    def __init__(self) -> None:
        def feed_forward() -> nn.Module:
            return nn.Sequential(LinearBatchNorm(WIDTH, HIDDEN), nn.Hardswish(), LinearBatchNorm(HIDDEN, WIDTH))

        super().__init__(*[Residual(m) for _ in range(2) for m in (Attention(), feed_forward())])


class MisnamedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.fc1(x).chunk(3, -1)
        return self.fc2((q @ k.transpose(1, 2)).softmax(-1) @ v)


class MisnamedMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.classifier = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.gelu(self.query(x)))


@network(*RAW, blocks=(mlp("attn.qkv", "query", "classifier"),), attention=("mlp.fc2",))
class LyingNames(nn.Module):
    """Every name is misleading: the attention is called ``mlp`` with ``fc1`` and ``fc2``, the MLP ``attn.qkv``."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp, self.attn = MisnamedAttention(), nn.ModuleDict({"qkv": MisnamedMlp()})
        self.relu, self.softmax = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mlp(self.relu(x))
        return x + self.attn["qkv"](self.softmax(x))
