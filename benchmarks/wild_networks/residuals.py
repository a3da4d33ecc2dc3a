"""Unusual residual streams: several copies, moving averages, split norms, extra branches, reversible pairs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.wild_networks.parts import WIDTH, Attention, Block, Mlp, Stack, here, network, noise

TOKENS = noise(6, WIDTH)


@network("hyper-connections", TOKENS)
class HyperConnections(nn.Module):
    """Two copies of the stream; each layer reads a weighted sum and writes to both, which are mixed as well."""

    class Hyper(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.norm, self.layer = nn.LayerNorm(WIDTH), layer
            self.inp, self.out = nn.Parameter(torch.tensor([0.6, 0.3])), nn.Parameter(torch.tensor([0.7, 0.4]))
            self.mix = nn.Parameter(torch.eye(2) + 0.1)

        def forward(self, h: Tensor) -> Tensor:
            y = self.layer(self.norm((h * self.inp[:, None]).sum(2)))
            return torch.einsum("blnd,nm->blmd", h, self.mix) + y.unsqueeze(2) * self.out[:, None]

    def __init__(self) -> None:
        super().__init__()
        layers = [Attention(), Mlp(), Attention(), Mlp()]
        self.layers, self.norm = nn.ModuleList(self.Hyper(layer) for layer in layers), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = x.unsqueeze(2).expand(-1, -1, 2, -1)
        for layer in self.layers:
            h = layer(h)
        return self.norm(h.sum(2))


class ComputedWeights(nn.Module):
    """Copies of the stream whose weights are computed from the copies, as in the published hyper-connections."""

    def __init__(self, layer: nn.Module, copies: int = 3) -> None:
        super().__init__()
        self.norm, self.before, self.layer, self.copies = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), layer, copies
        self.alpha = nn.Parameter(torch.cat([torch.rand(copies, 1), torch.eye(copies)], 1))
        self.alpha_of = nn.Parameter(0.1 * torch.randn(WIDTH, 1 + copies))
        self.beta, self.beta_of = nn.Parameter(torch.ones(copies)), nn.Parameter(0.1 * torch.randn(WIDTH))

    def weights(self, h: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(h)
        return (y @ self.alpha_of).tanh() + self.alpha, (y @ self.beta_of).tanh() + self.beta

    def forward(self, h: Tensor) -> Tensor:
        alpha, beta = self.weights(h)
        mixed = torch.einsum("...ab,...ac->...bc", alpha, h)
        y = self.layer(self.before(mixed[..., 0, :]))
        return torch.einsum("abc,abd->abdc", y, beta) + mixed[..., 1:, :]


class Manifold(ComputedWeights):
    """The mixing weights are made doubly stochastic by normalising rows and columns in turn."""

    def weights(self, h: Tensor) -> tuple[Tensor, Tensor]:
        alpha, beta = super().weights(h)
        read, mix = alpha[..., :1].sigmoid(), alpha[..., 1:].exp()
        for _ in range(4):
            mix = mix / mix.sum(-1, keepdim=True)
            mix = mix / mix.sum(-2, keepdim=True)
        return torch.cat([read, mix], -1), 2 * beta.sigmoid()


class Copied(nn.Module):
    """Expands the tokens to copies in the axis of the samples, runs the layers, and adds the copies."""

    def __init__(self, make: type[ComputedWeights]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(make(layer) for layer in (Attention(), Mlp(), Attention(), Mlp()))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        h = x.unsqueeze(1).expand(-1, 3, -1, -1).reshape(-1, n, c)
        for layer in self.layers:
            h = layer(h.view(b, 3, n, c).transpose(1, 2)).transpose(1, 2).reshape(-1, n, c)
        return h.view(b, 3, n, c).sum(1)


@network("dynamic-hyper-connections", TOKENS)
def dynamic() -> nn.Module:
    """The weights depend on the input."""
    return Copied(ComputedWeights)


@network("manifold-constrained-hyper-connections", TOKENS)
def manifold() -> nn.Module:
    """The mixing weights are doubly stochastic."""
    return Copied(Manifold)


@network("lerp", TOKENS)
class Lerp(Stack):
    """The stream moves a learned part of the way: ``torch.lerp(x, f(x), a)``."""

    class LerpBlock(Block):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.full((WIDTH,), 0.3))

        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            x = torch.lerp(x, self.attn(self.norm1(x)), self.a)
            return torch.lerp(x, self.mlp(self.norm2(x)), 0.4)

    def __init__(self) -> None:
        super().__init__(self.LerpBlock(), self.LerpBlock())


@network("split-norms", TOKENS)
class SplitNorms(Stack):
    """Two halves of the channels are normalised apart and joined again before the MLP."""

    class SplitBlock(Block):
        def __init__(self) -> None:
            super().__init__()
            self.na, self.nb = nn.LayerNorm(8), nn.LayerNorm(8)

        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            x = x + self.attn(self.norm1(x))
            a, b = x.split(8, -1)
            return x + self.mlp(torch.cat([self.na(a), self.nb(b)], -1))

    def __init__(self) -> None:
        super().__init__(self.SplitBlock(), self.SplitBlock())


@network("swapped-halves", TOKENS)
class SwappedHalves(Stack):
    """``chunk`` yields two halves, and the MLP reads them in the other order."""

    class SwapBlock(Block):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            x = x + self.attn(self.norm1(x))
            a, b = x.chunk(2, -1)
            return x + self.mlp(self.norm2(torch.cat([b, a], -1)))

    def __init__(self) -> None:
        super().__init__(self.SwapBlock(), self.SwapBlock())


@network("adaptformer", TOKENS, blocks=3)
class AdaptFormer(Stack):
    """One block has a bottleneck adapter beside its MLP; the adapter is no feed-forward of the architecture."""

    class AdaptBlock(Block):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Linear(WIDTH, 4), nn.Linear(4, WIDTH)

        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            x = x + self.attn(self.norm1(x))
            return x + self.mlp(self.norm2(x)) + 0.1 * self.up(torch.relu(self.down(x)))

    def __init__(self) -> None:
        super().__init__(Block(), self.AdaptBlock(), Block())


@network("reversible", TOKENS)
class Reversible(nn.Module):
    """Two streams that feed each other, as in Reformer: ``y1 = x1 + f(x2)``, ``y2 = x2 + g(y1)``."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n1, self.n2, self.attn, self.mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Attention(), Mlp()

        def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
            y1 = x1 + self.attn(self.n1(x2))
            return y1, x2 + self.mlp(self.n2(y1))

    def __init__(self) -> None:
        super().__init__()
        self.pairs = nn.ModuleList([self.Pair(), self.Pair()])

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = x, x
        for pair in self.pairs:
            x1, x2 = pair(x1, x2)
        return x1 + x2


@network("macaron", TOKENS, blocks=4)
class Macaron(Stack):
    """Half-step MLPs before and after attention and a convolution module, as in Conformer."""

    class ConformerBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n1, self.ff1, self.n2, self.attn = (
                nn.LayerNorm(WIDTH),
                Mlp(act=nn.SiLU),
                nn.LayerNorm(WIDTH),
                Attention(),
            )
            self.n3, self.n4, self.ff2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Mlp(act=nn.SiLU)
            self.pw1, self.pw2 = nn.Conv1d(WIDTH, 32, 1), nn.Conv1d(WIDTH, WIDTH, 1)
            self.dw, self.bn, self.out = (
                nn.Conv1d(16, 16, 3, padding=1, groups=16),
                nn.BatchNorm1d(16),
                nn.LayerNorm(16),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = x + 0.5 * self.ff1(self.n1(x))
            x = x + self.attn(self.n2(x))
            y = nn.functional.glu(self.pw1(self.n3(x).transpose(1, 2)), dim=1)
            x = x + self.pw2(nn.functional.silu(self.bn(self.dw(y)))).transpose(1, 2)
            return self.out(x + 0.5 * self.ff2(self.n4(x)))

    def __init__(self) -> None:
        super().__init__(self.ConformerBlock(), self.ConformerBlock())


@network("sandwich", TOKENS)
class Sandwich(Stack):
    """Norms before and after each branch, and a learned scalar gate that starts at zero elsewhere."""

    class SandwichBlock(Block):
        def __init__(self) -> None:
            super().__init__()
            self.post1, self.post2, self.gate = nn.LayerNorm(16), nn.LayerNorm(16), nn.Parameter(torch.tensor(0.5))

        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            x = x + self.gate * self.post1(self.attn(self.norm1(x)))
            return x + self.gate.tanh() * self.post2(self.mlp(self.norm2(x)))

    def __init__(self) -> None:
        super().__init__(self.SandwichBlock(), self.SandwichBlock())


@network("universal", TOKENS, blocks=1)
class Universal(nn.Module):
    """One block runs three times."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.block(x)
        return x


@network("functional", TOKENS)
class Functional(nn.Module):
    """Weights in a parameter list and no layer modules: only the program can be edited."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(*s) / 4) for s in ((16, 40), (40, 16)) * 2])

    def forward(self, x: Tensor) -> Tensor:
        for i in (0, 2):
            y = nn.functional.layer_norm(x, (WIDTH,))
            x = x + here(nn.functional.silu(y @ self.weights[i]) @ self.weights[i + 1], 1)
        return x


@network("batch-as-int", TOKENS)
class BatchAsInt(Stack):
    """Takes the batch as a Python int, so that no symbolic batch can be captured."""

    def __init__(self) -> None:
        super().__init__(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        b = int(x.shape[0])
        return super().forward(x.reshape(b, -1, WIDTH)).view(b, 6, WIDTH)


@network("two-residuals", TOKENS)
class DenseNormal(Stack):
    """Every block adds the input embedding again, scaled."""

    class Again(Block):
        def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            x, first = pair
            x = x + self.attn(self.norm1(x)) + 0.1 * first
            return x + self.mlp(self.norm2(x)) + 0.1 * first, first

    def __init__(self) -> None:
        super().__init__(self.Again(), self.Again())

    def forward(self, x: Tensor) -> Tensor:
        pair = (x, x)
        for block in self.blocks:
            pair = block(pair)
        return self.norm(pair[0])
