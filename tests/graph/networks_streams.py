"""Networks whose trap is the stream itself: shared layers, changing widths, several streams, detours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.expectations import WIDTH, each, mlp, network
from tests.graph.parts import Attention, Block, CrossAttention, Mlp, Stack

RAW = (2, 5, WIDTH)
ATTENTION = ("blocks.0.attn.proj", "blocks.1.attn.proj")
MLPS = each(2, "blocks.{}.mlp", mlp)


@network(*RAW, blocks=(mlp("layer.mlp", calls=3),), attention=("layer.attn.proj",))
class SharedLayer(nn.Module):
    """ALBERT: one layer is run three times, so one block with three calls, and a site with three uses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = Block(), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.layer(x)
        return self.norm(x)


class Merging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * WIDTH), nn.Linear(4 * WIDTH, 2 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(x))


class GridBlock(nn.Module):
    """NHWC stream, attention over the flattened grid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = Attention(width), Mlp(width, width + 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x).flatten(1, 2)).view(x.shape)
        return x + self.mlp(self.norm2(x))


@network(
    2,
    4,
    6,
    WIDTH,
    blocks=tuple(mlp(f"stages.{i}.mlp", tokens=(1, 2), channel=3) for i in (0, 2)),
    attention=("stages.0.attn.proj", "stages.2.attn.proj"),
)
class Hierarchical(nn.Module):
    """Patch merging changes the width and the token count between stages: one stack all the same, tokens (1, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(GridBlock(WIDTH), Merging(), GridBlock(2 * WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)


class DecoderBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(3)])
        self.attn, self.cross, self.mlp = CrossAttention(), CrossAttention(), Mlp()

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + self.attn(self.norms[0](x))
        x = x + self.cross(self.norms[1](x), memory)
        return x + self.mlp(self.norms[2](x))


@network(
    inputs=lambda: (torch.randn(2, 5, WIDTH), torch.randn(2, 3, WIDTH)),
    blocks=(
        *each(2, "encoder.{}.mlp", mlp),
        *each(2, "decoder.{}.mlp", lambda path: mlp(path, stack=1)),
    ),
    attention=(
        "encoder.0.attn.proj",
        "encoder.1.attn.proj",
        "decoder.0.attn.proj",
        "decoder.0.cross.proj",
        "decoder.1.attn.proj",
        "decoder.1.cross.proj",
    ),
)
class EncoderDecoder(nn.Module):
    """Two streams joined by cross attention: two stacks, and cross attention is an attention block of the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([Block(), Block()])
        self.norm, self.decoder = nn.LayerNorm(WIDTH), nn.ModuleList([DecoderBlock(), DecoderBlock()])

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        for block in self.encoder:
            x = block(x)
        memory = self.norm(x)
        for block in self.decoder:
            target = block(target, memory)
        return target


@network(
    inputs=lambda: (torch.randn(2, 5, WIDTH), torch.randn(2, 4, 10)),
    blocks=(
        *each(2, "image.blocks.{}.mlp", mlp),
        *each(2, "text.blocks.{}.mlp", lambda path: mlp(path, stack=1)),
    ),
    attention=tuple(f"{tower}.blocks.{i}.attn.proj" for tower in ("image", "text") for i in range(2)),
)
class TwoTowers(nn.Module):
    """CLIP: two towers that meet in a product of pooled features only. Two stacks, in graph order."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = Stack(Block(), Block()), Stack(Block(10), Block(10))
        self.image_head, self.text_head = nn.Linear(WIDTH, 6), nn.Linear(10, 6)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        x, y = self.image_head(self.image(image).mean(1)), self.text_head(self.text(text).mean(1))
        return F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).t()


class StageBlock(nn.Module):
    """Two layers, a 3x3 convolution, and an addition of the stage's input."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.conv = Stack(Block(), Block()), nn.Conv2d(WIDTH, WIDTH, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x).transpose(1, 2).reshape(x.shape[0], WIDTH, 3, 4)
        return x + self.conv(y).flatten(2).transpose(1, 2)


@network(
    2,
    12,
    WIDTH,
    blocks=tuple(mlp(f"blocks.{i}.layers.blocks.{j}.mlp") for i in range(2) for j in range(2)),
    attention=tuple(f"blocks.{i}.layers.blocks.{j}.attn.proj" for i in range(2) for j in range(2)),
)
class NestedResidual(Stack):
    """SwinIR: an outer addition spans a whole stage. Its branch holds projections, but the stage is no MLP block."""

    def __init__(self) -> None:
        super().__init__(StageBlock(), StageBlock())


class ConvPositionBlock(Block):
    def __init__(self) -> None:
        super().__init__()
        self.pos = nn.Conv2d(WIDTH, WIDTH, 3, 1, 1, groups=WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.transpose(1, 2).view(x.shape[0], WIDTH, 3, 4)
        x = x + self.pos(grid).flatten(2).transpose(1, 2)
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@network(2, 12, WIDTH, blocks=MLPS, attention=ATTENTION)
class ConditionalPositions(Stack):
    """A depthwise convolution added to the stream before every layer (CPVT, Twins) is not a block."""

    def __init__(self) -> None:
        super().__init__(ConvPositionBlock(), ConvPositionBlock())


class WindowAttention(nn.Module):
    """Pad, shift, cut into 2x2 windows, attend, and all of it back."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.attn, self.shift = Attention(), shift

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2))
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        rows, columns = x.shape[1] // 2, x.shape[2] // 2
        windows = x.view(b, rows, 2, columns, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        windows = self.attn(windows).view(b, rows, columns, 2, 2, c)
        x = windows.permute(0, 1, 3, 2, 4, 5).reshape(b, 2 * rows, 2 * columns, c)
        return torch.roll(x, (self.shift, self.shift), (1, 2))[:, :h, :w, :].contiguous()


class WindowBlock(Block):
    def __init__(self, shift: int) -> None:
        super().__init__()
        self.attn = WindowAttention(shift)  # type: ignore[assignment]


@network(
    2,
    3,
    5,
    WIDTH,
    blocks=each(2, "blocks.{}.mlp", lambda path: mlp(path, tokens=(1, 2), channel=3)),
    attention=("blocks.0.attn.attn.proj", "blocks.1.attn.attn.proj"),
)
class ShiftedWindows(Stack):
    """Swin: attention pads, rolls, folds windows into the batch and crops; the MLP sees the whole NHWC grid."""

    def __init__(self) -> None:
        super().__init__(WindowBlock(0), WindowBlock(1))


class PoolTokens(nn.Module):
    """PiT: the patches are pooled by a strided convolution, the class token by a linear, then they are joined again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(WIDTH, 2 * WIDTH, 3, 2, 1, groups=WIDTH), nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        cls, grid = x[:, :1], x[:, 1:].transpose(1, 2).reshape(x.shape[0], WIDTH, 4, 4)
        return torch.cat([self.fc(cls), self.conv(grid).flatten(2).transpose(1, 2)], 1)


@network(
    2,
    17,
    WIDTH,
    blocks=tuple(mlp(f"stages.{i}.mlp") for i in (0, 2)),
    attention=("stages.0.attn.proj", "stages.2.attn.proj"),
)
class RejoinedClassToken(nn.Module):
    """Between stages the class token and the patches part, change width each in their way, and meet: one stack."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(Block(WIDTH), PoolTokens(), Block(2 * WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)


@network(
    *RAW,
    blocks=tuple(mlp(f"{name}.mlp") for name in ("first", "middle", "last")),
    attention=tuple(f"{name}.attn.proj" for name in ("first", "middle", "last")),
)
class LongSkip(nn.Module):
    """U-ViT: the stream of an early layer is joined to a late one by ``cat`` and a projection. One stack, no more."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last, self.join = Block(), Block(), Block(), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        x = self.middle(skip)
        return self.last(self.join(torch.cat([x, skip], dim=-1)))


class TokenGateBlock(Block):
    """A gate per token, from the same normed stream, after the MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        y = self.norm2(x)
        return x + torch.sigmoid(self.gate(y)) * self.mlp(y)


@network(*RAW, blocks=MLPS, attention=ATTENTION)
class TokenGate(Stack):
    """A shared expert's gate: the branch is multiplied, after its down projection, by (B, N, 1) made from the stream.

    The gate is behind the MLP like a layer scale, so the kind stays ``mlp``, and Front feeds the MLP but not the gate.
    """

    def __init__(self) -> None:
        super().__init__(TokenGateBlock(), TokenGateBlock())


class QueryBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.cross, self.mlp = CrossAttention(), Mlp()

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + self.cross(self.norm1(x), memory)
        return x + self.mlp(self.norm2(x))


@network(
    *RAW,
    blocks=each(2, "layers.{}.mlp", mlp),
    attention=("layers.0.cross.proj", "layers.1.cross.proj"),
)
class LearnedQueries(nn.Module):
    """Perceiver, Q-Former: the stream starts as a parameter that is only expanded to the batch. Its tokens are queries.

    Until the first cross attention the stream is the same for every sample, but the MLPs behind it are not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.layers = nn.Parameter(torch.randn(1, 3, WIDTH)), nn.ModuleList([QueryBlock(), QueryBlock()])

    def forward(self, memory: Tensor) -> Tensor:
        x = self.queries.expand(memory.shape[0], -1, -1)
        for layer in self.layers:
            x = layer(x, memory)
        return x
