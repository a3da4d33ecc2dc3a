"""Causal mixers in spellings that hold no mask: running products, solvers, Fourier transforms, shifted copies.

The reference runs the network itself: tokens of each sample are changed one by one, and outputs are compared.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import cbsurgeon as cbs
from cbsurgeon.errors import SurgeryError
from tests.wild.test_a_order import TOKENS, WIDTH, Mix, Mixer, Network, noise, sees

FAR = torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)[None]


def parts(mixer: Mixer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = mixer.qkv(mixer.norm(x)).chunk(3, -1)
    return q, k, v


def linear_attention(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    q, k, v = parts(mixer, x)
    q, k = F.elu(q) + 1, F.elu(k) + 1
    state = torch.einsum("bnd,bne->bnde", k, v).cumsum(1)
    return mixer.out(torch.einsum("bnd,bnde->bne", q, state) / (q * k.cumsum(1)).sum(-1, keepdim=True))


def complex_phase(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    """``1 + exp(i pi)`` is zero for later tokens."""
    return mixer(x, (1 + torch.exp(1j * torch.pi * (FAR < 0).float())).real / 2)


def infinite_logarithm(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    q, k, v = parts(mixer, x)
    return mixer.out((q @ k.mT / 3 + (FAR + 1).float().clamp(min=0).log().clamp(max=0)).softmax(-1) @ v)


def no_number(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    q, k, v = parts(mixer, x)
    return mixer.out((q @ k.mT / 3 + torch.nan_to_num(FAR.float().sqrt() * 0, nan=-1e9)).softmax(-1) @ v)


def put_into_zeros(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    q, k, v = parts(mixer, x)
    rows, columns = torch.tril_indices(TOKENS, TOKENS)
    weights, scores = torch.zeros(len(x), TOKENS, TOKENS), (q @ k.mT / 3).exp()
    weights[:, rows, columns] = scores[:, rows, columns]
    return mixer.out(weights / weights.sum(-1, keepdim=True) @ v)


def unfolded(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    return mixer.out(F.pad(mixer.norm(x), (0, 0, TOKENS - 1, 0)).unfold(1, TOKENS, 1).mean(-1))


def running_norm(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    count = torch.arange(1, TOKENS + 1)[:, None]
    mean, square = (y.mean(-1, keepdim=True).cumsum(1) / count for y in (x, x**2))
    return mixer.out((x - mean) / (square + 1e-5).sqrt())


def decay_by_negative_index(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    """Later tokens have a negative distance, which is an index into the zeros at the end of a table."""
    q, k, v = parts(mixer, x)
    return mixer.out((q @ k.mT * torch.cat([0.9 ** torch.arange(TOKENS).float(), torch.zeros(TOKENS - 1)])[FAR]) @ v)


def doubling(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    """A scan in a logarithmic number of steps."""
    decay, _, state = parts(mixer, x)
    decay, step = decay.sigmoid(), 1
    while step < TOKENS:
        state = state + decay * F.pad(state, (0, 0, step, 0))[:, :TOKENS]
        decay = decay * F.pad(decay, (0, 0, step, 0))[:, :TOKENS]
        step *= 2
    return mixer.out(state)


def solved(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    """The delta rule, with a triangular system."""
    q, k, v = parts(mixer, x)
    k = F.normalize(k, dim=-1)
    system = (k @ k.mT).tril(-1) + torch.eye(TOKENS)
    return mixer.out((q @ k.mT).tril() @ torch.linalg.solve_triangular(system, v, upper=False))


def largest_so_far(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    return mixer.out(mixer.norm(x).cummax(1).values)


CAUSAL: dict[str, Mix] = {
    "linear-attention": linear_attention,
    "complex-phase": complex_phase,
    "infinite-logarithm": infinite_logarithm,
    "no-number": no_number,
    "put-into-zeros": put_into_zeros,
    "unfolded": unfolded,
    "running-norm": running_norm,
    "negative-index": decay_by_negative_index,
    "doubling": doubling,
    "solved": solved,
    "largest-so-far": largest_so_far,
}


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_mixer_without_a_mask_takes_the_causal_form(name: str) -> None:
    module, x = Network(CAUSAL[name]).eval(), noise(TOKENS, WIDTH)
    assert not bool(sees(module, x).tril(-1).any()), "no token of the reference may see a later one"
    assert bool(sees(module, x)[:, 0, 1:].any())
    model = cbs.Model(module, (x,))
    found = cbs.inspect(model)
    with pytest.raises(SurgeryError) as refused:
        cbs.plan(found, op="cb", layers="all")
    assert refused.value.code == "CB-LEAK-01"
    edited = cbs.insert(model, cbs.plan(found, op="cb", layers="all", causal=True)).module
    after = sees(edited, x)
    assert not bool(after.tril(-1).any())
    assert bool(after[:, 0].all()), "the mean must reach every later token"


def both_ways(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    y = mixer.norm(x)
    return mixer.out(y.cumsum(1) + y.flip(1).cumsum(1).flip(1))


def around(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    return mixer.out(mixer.norm(x) + mixer.norm(x).roll(1, 1))


def growing(mixer: Mixer, x: Tensor, given: Tensor) -> Tensor:
    return mixer(x, 0.9 ** FAR.float())


@pytest.mark.parametrize("mix", [both_ways, around, growing])
def test_the_same_in_both_directions_is_free(mix: Mix) -> None:
    module, x = Network(mix).eval(), noise(TOKENS, WIDTH)
    assert bool(sees(module, x).tril(-1).any())
    assert len(cbs.plan(cbs.inspect(cbs.Model(module, (x,))), op="cb", layers="all")) == 2
