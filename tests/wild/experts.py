"""Mixtures of experts in the ways public code writes them; ``here`` marks where a person averages over tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HIDDEN, EXPERTS, LENGTH = 16, 24, 3, 6


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Routed(nn.Module):
    """A router and the weights of all experts."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.w1 = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN) / 4)
        self.w2 = nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH) / 5)

    def forward(self, y: Tensor) -> Tensor:
        raise NotImplementedError


class Dense(Routed):
    """Every expert sees every token."""

    def weights(self, y: Tensor) -> Tensor:
        return self.router(y).softmax(-1)

    def forward(self, y: Tensor) -> Tensor:
        hidden = F.gelu(torch.einsum("bnd,edh->bneh", y, self.w1))
        return torch.einsum("bned,bne->bnd", torch.einsum("bneh,ehd->bned", hidden, self.w2), self.weights(y))


class TopK(Dense):
    """The weights of all but two experts are zero."""

    def weights(self, y: Tensor) -> Tensor:
        best, which = self.router(y).topk(2, -1)
        return torch.zeros(*y.shape[:2], EXPERTS).scatter(-1, which, best.softmax(-1))


class Summed(Dense):
    """The weighted sum is a product and a sum."""

    def forward(self, y: Tensor) -> Tensor:
        hidden = F.silu(torch.einsum("bnd,edh->bneh", y, self.w1))
        return (torch.einsum("bneh,ehd->bned", hidden, self.w2) * self.weights(y)[..., None]).sum(2)


class Modules(Routed):
    """Experts are modules, run one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Mlp() for _ in range(EXPERTS))

    def forward(self, y: Tensor) -> Tensor:
        weights = self.router(y).softmax(-1)
        out = torch.zeros_like(y)
        for i, expert in enumerate(self.experts):
            out = out + weights[..., i : i + 1] * expert(y)
        return out


class Stacked(Modules):
    """The same, stacked before the weighted sum."""

    def forward(self, y: Tensor) -> Tensor:
        each = torch.stack([expert(y) for expert in self.experts], 2)
        return (each * self.router(y).softmax(-1)[..., None]).sum(2)


class Dispatched(Routed):
    """Each expert takes as many tokens as it has room for (GShard): its positions are no tokens of the sequence."""

    def forward(self, y: Tensor) -> Tensor:
        send = self.router(y).softmax(-1)[..., None] * torch.ones(4)
        sent = torch.einsum("bnd,bnec->becd", y, send)
        hidden = F.relu(torch.einsum("becd,edh->bech", sent, self.w1))
        return torch.einsum("becd,bnec->bnd", torch.einsum("bech,ehd->becd", hidden, self.w2), send)


class Gathered(Routed):
    """Every token fetches the weights of its best expert."""

    def forward(self, y: Tensor) -> Tensor:
        best, which = self.router(y).softmax(-1).max(-1)
        hidden = F.relu(torch.einsum("bnd,bndh->bnh", y, self.w1[which]))
        return torch.einsum("bnh,bnhd->bnd", hidden, self.w2[which]) * best[..., None]


class Sorted(Routed):
    """Tokens of all samples are sorted by expert, each expert works on an equal share, and they are put back."""

    def forward(self, y: Tensor) -> Tensor:
        flat = y.reshape(-1, WIDTH)
        order = self.router(flat).argmax(-1).argsort()
        share = flat[order].view(EXPERTS, -1, WIDTH)
        out = torch.bmm(F.relu(torch.bmm(share, self.w1)), self.w2).view(-1, WIDTH)
        return torch.zeros_like(flat).index_copy(0, order, out).view(y.shape)


class Fetched(Modules):
    """Each expert runs on the tokens it was chosen for, as many as there are."""

    def forward(self, y: Tensor) -> Tensor:
        flat, out = y.reshape(-1, WIDTH), torch.zeros_like(y).reshape(-1, WIDTH)
        chosen = self.router(flat).argmax(-1)
        for i, expert in enumerate(self.experts):
            rows = torch.where(chosen == i)[0]
            out = out.index_add(0, rows, expert(flat[rows]))
        return out.view(y.shape)


class Network(nn.Module):
    """Two blocks of attention and experts."""

    class Block(nn.Module):
        def __init__(self, experts: nn.Module) -> None:
            super().__init__()
            self.norm1, self.qkv, self.norm2 = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.LayerNorm(WIDTH)
            self.experts = experts

        def forward(self, x: Tensor, after: Callable[[Tensor], Tensor]) -> Tensor:
            q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
            x = x + F.scaled_dot_product_attention(q, k, v)
            return x + after(self.experts(self.norm2(x)))

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([self.Block(make()), self.Block(make())])

    def forward(self, x: Tensor, after: Callable[[Tensor], Tensor] = lambda y: y) -> Tensor:
        for block in self.blocks:
            x = block(x, after)
        return x
