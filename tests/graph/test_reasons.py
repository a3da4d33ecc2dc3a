"""The parts of an MLP branch that a rejected candidate has; the expected parts are written beside each network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.graph.reasons import Part, Reason
from cbsurgeon.report import render_text

NORM, UP, ACTIVATION, DOWN, ADD = Part


class Candidate(nn.Module):
    """An ordinary MLP block, and a parallel branch whose parts can be left out."""

    def __init__(self, *parts: Part, tokens: int = 5) -> None:
        super().__init__()
        self.parts, self.tokens = parts, tokens
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.only = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, : self.tokens]
        y = self.norm(x) if NORM in self.parts else x
        if UP in self.parts:
            y = self.up(y)
            y = nn.functional.gelu(y) if ACTIVATION in self.parts else y
            y = self.down(y)
        else:
            y = self.only(y)
        return x + y if ADD in self.parts else y


@pytest.mark.parametrize(
    ("reason", "parts", "tokens"),
    [
        (Reason.NO_ACTIVATION, (NORM, UP, DOWN, ADD), 5),
        (Reason.NO_ACTIVATION, (UP, DOWN, ADD), 5),
        (Reason.SINGLE_PROJECTION, (DOWN, ADD), 5),
        (Reason.SINGLE_PROJECTION, (NORM, DOWN, ADD), 5),
        (Reason.NO_RESIDUAL, (NORM, UP, ACTIVATION, DOWN), 5),
        (Reason.NO_RESIDUAL, (UP, ACTIVATION, DOWN), 5),
        (Reason.ONE_TOKEN, (NORM, UP, ACTIVATION, DOWN, ADD), 1),
        (Reason.ONE_TOKEN, (UP, ACTIVATION, DOWN, ADD), 1),
    ],
)
def test_the_parts_of_a_candidate(reason: Reason, parts: tuple[Part, ...], tokens: int) -> None:
    found = cbs.inspect(cbs.Model(Candidate(*parts, tokens=tokens).eval(), (torch.randn(2, 5, 8),)))
    assert not found.blocks
    (candidate,) = found.rejected
    assert candidate.reason is reason
    assert candidate.reached == parts
    document = candidate.to_dict()
    assert document["reason"] == str(reason) and document["sentence"] == reason.sentence
    assert document["reached"] == [str(part) for part in parts]
    text = render_text({**found.to_dict(), "show_rejected": True}, width=160)
    assert f"{reason}: {reason.sentence}" in text and ", ".join(parts) in text


def test_every_reason_has_a_sentence_of_its_own() -> None:
    sentences = [reason.sentence for reason in Reason]
    assert len(set(sentences)) == len(sentences) and all(len(sentence.split()) > 4 for sentence in sentences)
    assert all(str(reason) == reason.value == reason.value.lower() for reason in Reason)


class FusedAdd(nn.Module):
    """``x + h @ w`` as one operator."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.gelu(self.up(self.norm(x)))
        return torch.baddbmm(x, hidden, self.down.weight.T.expand(len(x), -1, -1))


class RadialBasis(nn.Module):
    """Five functions of each channel go into the up projection (a Kolmogorov-Arnold network)."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.linspace(-1, 1, 5))
        self.up, self.down = nn.Linear(40, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        near = torch.exp(-((x[..., None] - self.centres) ** 2)).flatten(-2)
        return x + self.down(nn.functional.gelu(self.up(near)))


class PerHead(nn.Module):
    """An MLP for each of four groups of channels: no token is routed."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(4, 2, 8)), nn.Parameter(torch.randn(4, 8, 2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.gelu(torch.einsum("bnhe,hef->bnhf", x.unflatten(-1, (4, 2)), self.up))
        return x + torch.einsum("bnhf,hfe->bnhe", hidden, self.down).flatten(-2)


class Elsewhere(nn.Module):
    """The MLP of one input is added to another one."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(y)))


@pytest.mark.parametrize(
    ("net", "reason", "says"),
    [
        (FusedAdd(), Reason.FUSED_ADD, "multiplies and adds x"),
        (RadialBasis(), Reason.NOT_FOLLOWED, "adds it to x, but exp (exp) is between x and linear"),
        (PerHead(), Reason.SEVERAL_WEIGHTS, "(einsum) is on the path to add"),
        (Elsewhere(), Reason.NO_RESIDUAL, "adds it to a tensor it was not computed from"),
    ],
)
def test_the_reason_is_true_of_the_network(net: nn.Module, reason: Reason, says: str) -> None:
    inputs = tuple(torch.randn(2, 5, 8) for _ in range(2 if isinstance(net, Elsewhere) else 1))
    found = cbs.inspect(cbs.Model(net.eval(), inputs))
    assert not found.blocks
    assert found.rejected[0].reason is reason and says in found.rejected[0].detail
    # What the reasons say of the result, without the graph: it depends on the tensor that it is added to, or not.
    x = inputs[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad((net(x, *inputs[1:]) - x).square().sum(), x)
    assert bool((slope.abs() > 1e-4).any()) is (reason is not Reason.NO_RESIDUAL)
