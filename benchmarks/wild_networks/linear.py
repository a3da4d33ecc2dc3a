"""Attention of linear cost and its relatives: kernels, low rank, retention, cross-covariance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.wild_networks.parts import WIDTH, Block, Mlp, Patches, Stack, here, network, noise

TOKENS = noise(8, WIDTH)


class TokenPerformer(nn.Module):
    """T2T's performer: the value projection, not the input, is the stream of the MLP; ``split`` yields a tuple."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(WIDTH)
        self.kqv, self.proj = nn.Linear(width, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.w = nn.Parameter(torch.randn(8, WIDTH) * 0.3, requires_grad=False)

    def prm_exp(self, x: Tensor) -> Tensor:
        xd = ((x * x).sum(-1, keepdim=True)).repeat(1, 1, 8) / 2
        return torch.exp(torch.einsum("bti,mi->btm", x.float(), self.w) - xd) / 8**0.5

    def forward(self, x: Tensor) -> Tensor:
        k, q, v = torch.split(self.kqv(self.norm1(x)), WIDTH, dim=-1)
        kp, qp = self.prm_exp(k), self.prm_exp(q)
        scale = torch.einsum("bti,bi->bt", qp, kp.sum(1)).unsqueeze(2)
        kptv = torch.einsum("bin,bim->bnm", v.float(), kp)
        y = torch.einsum("bti,bni->btn", qp, kptv) / (scale.repeat(1, 1, WIDTH) + 1e-8)
        y = v + self.proj(y)
        return y + here(self.fc2(nn.functional.gelu(self.fc1(self.norm2(y)))), 1)


@network("t2t-vit", noise(3, 8, 8), blocks=3)
class TokensToToken(nn.Module):
    """Unfold, a performer, fold, unfold again, then ordinary blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.unfold1, self.unfold2 = nn.Unfold(3, padding=1, stride=2), nn.Unfold(3, padding=1, stride=2)
        self.attention1, self.project = TokenPerformer(27), nn.Linear(9 * WIDTH, WIDTH)
        self.blocks = Stack(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention1(self.unfold1(x).transpose(1, 2))
        b, _n, c = x.shape
        x = self.unfold2(x.transpose(1, 2).reshape(b, c, 4, 4)).transpose(1, 2)
        return self.blocks(self.project(x))


@network("performer", TOKENS)
class Performer(Stack):
    """Random features; the MLP runs on chunks of the sequence, which are joined again."""

    class PerformerBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2, self.out = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
            self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
            self.mlp = Mlp()
            self.register_buffer("features", torch.randn(8, WIDTH))

        def attend(self, x: Tensor) -> Tensor:
            q, k = (nn.functional.relu(f(x) @ self.features.t()) + 1e-3 for f in (self.q, self.k))
            context = torch.einsum("bnd,bne->bde", k, self.v(x))
            norm = 1.0 / torch.einsum("bnd,bd->bn", q, k.sum(1))
            return self.out(torch.einsum("bde,bnd,bn->bne", context, q, norm))

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attend(self.norm1(x))
            return x + self.mlp(self.norm2(x))

    def __init__(self) -> None:
        super().__init__(self.PerformerBlock(), self.PerformerBlock())


@network("linformer", TOKENS)
class Linformer(Stack):
    """Keys and values projected along the tokens."""

    class LinBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2, self.mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Mlp()
            self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
            self.proj_k, self.proj_v = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(8, 4))

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm1(x)
            keys = torch.einsum("bnd,nk->bkd", self.k(y), self.proj_k)
            values = torch.einsum("bnd,nk->bkd", self.v(y), self.proj_v)
            dots = torch.einsum("bnd,bkd->bnk", self.q(y), keys) * WIDTH**-0.5
            x = x + self.out(torch.einsum("bnk,bkd->bnd", dots.softmax(-1), values))
            return x + self.mlp(self.norm2(x))

    def __init__(self) -> None:
        super().__init__(self.LinBlock(), self.LinBlock())


@network("retnet", TOKENS, leak="causal")
class RetNet(Stack):
    """Retention: a decay matrix, zero above the diagonal, multiplies the scores; no softmax."""

    class Retention(nn.Module):
        decay: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.q, self.k, self.v, self.g, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(5))
            self.fc1, self.gate, self.fc2 = nn.Linear(WIDTH, 32), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
            steps = torch.arange(8.0)
            distance = steps[:, None] - steps[None]
            self.register_buffer("decay", torch.where(distance >= 0, 0.9 ** distance.clamp(min=0), 0.0))

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm1(x)
            scores = self.q(y) @ self.k(y).transpose(1, 2) * WIDTH**-0.5 * self.decay
            kept = scores / scores.detach().abs().sum(-1, keepdim=True).clamp(min=1)
            x = x + self.out(nn.functional.silu(self.g(y)) * (kept @ self.v(y)))
            y = self.norm2(x)
            return x + here(self.fc2(nn.functional.silu(self.gate(y)) * self.fc1(y)), 1)

    def __init__(self) -> None:
        super().__init__(self.Retention(), self.Retention())


@network("xcit", noise(3, 16, 16))
class Xcit(Stack):
    """Attention between channels, local patch interaction by convolutions, then the MLP."""

    class XcBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2, self.norm3 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.proj, self.temperature = (
                nn.Linear(WIDTH, 48),
                nn.Linear(WIDTH, WIDTH),
                nn.Parameter(torch.ones(2, 1, 1)),
            )
            self.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
            self.conv2, self.bn = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH), nn.BatchNorm2d(WIDTH)
            self.mlp, self.gamma = Mlp(), nn.Parameter(torch.full((3, WIDTH), 0.5))

        def forward(self, x: Tensor) -> Tensor:
            b, n, c = x.shape
            q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 4, 1)
            q, k = nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1)
            a = ((q @ k.transpose(-2, -1)) * self.temperature).softmax(-1)
            x = x + self.gamma[0] * self.proj((a @ v).permute(0, 3, 1, 2).reshape(b, n, c))
            y = self.norm3(x).permute(0, 2, 1).reshape(b, c, 4, 4)
            y = self.conv2(self.bn(nn.functional.gelu(self.conv1(y)))).reshape(b, c, n).permute(0, 2, 1)
            x = x + self.gamma[1] * y
            return x + self.gamma[2] * self.mlp(self.norm2(x))

    def __init__(self) -> None:
        super().__init__(self.XcBlock(), self.XcBlock())
        self.patch = Patches()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.patch(x))
