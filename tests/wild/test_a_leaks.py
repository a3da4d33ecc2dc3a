"""Causal and padding masks of ``nn.MultiheadAttention`` in its default form, which returns its weights.

The references do not read a graph: whether a model hides the future is seen by changing its input, and the masked and
causal results are computed by hand-written loops over samples and tokens.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import SurgeryError
from cbsurgeon.graph import Inspection, inspect
from cbsurgeon.models.model import Model
from cbsurgeon.surgery import plan

BATCH, LENGTH, WIDTH = 2, 6, 16
CLOSE = 1e-5
"""float32: two blocks of sums over at most 32 numbers of order one round to about 1e-6."""


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def attend(self, x: Tensor, future: Tensor | None, filler: Tensor | None) -> Tensor:
        y = self.norm1(x)
        mixed: Tensor = self.attn(y, y, y, attn_mask=future, key_padding_mask=filler)[0]
        return x + mixed


class Encoder(nn.Module):
    """Two layers with an optional causal mask and an optional padding mask."""

    future: Tensor

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([Layer() for _ in range(2)])
        self.causal = causal
        self.register_buffer("future", torch.full((LENGTH, LENGTH), float("-inf")).triu(1))

    def forward(self, x: Tensor, filler: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            assert isinstance(layer, Layer)
            x = layer.attend(x, self.future if self.causal else None, filler)
            x = x + layer.mlp(layer.norm2(x))
        return x


def tokens() -> Tensor:
    return torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


def filler() -> Tensor:
    hidden = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    hidden[-1, -2:] = True
    return hidden


def model(*, causal: bool = False, padded: bool = False) -> Model:
    return Model(Encoder(causal=causal).eval(), (tokens(), filler()) if padded else (tokens(),))


def hides_the_future(module: nn.Module) -> bool:
    """Change all tokens from one position on, for every position: no output before it may change."""
    x = tokens()
    with torch.no_grad():
        plain = module(x)
        for first in range(1, LENGTH):
            changed = x.clone()
            changed[:, first:] *= -1  # a constant would be cancelled by the norms
            if not torch.allclose(module(changed)[:, :first], plain[:, :first], atol=CLOSE):
                return False
    return True


def by_hand(module: Encoder, x: Tensor, hidden: Tensor | None) -> Tensor:
    """CB at the end of both MLPs: the mean of the tokens up to a token (causal), or of those that are no filler."""
    for layer in module.layers:
        assert isinstance(layer, Layer)
        x = layer.attend(x, module.future if module.causal else None, hidden)
        y = layer.mlp(layer.norm2(x))
        after = y.clone()
        for sample in range(len(y)):
            for place in range(LENGTH):
                seen = range(place + 1) if module.causal else range(LENGTH)
                counted = [y[sample, one] for one in seen if hidden is None or not hidden[sample, one]]
                after[sample, place] = (y[sample, place] + torch.stack(counted).mean(dim=0)) / 2
        x = x + after
    return x


def code(inspection: Inspection) -> str:
    with pytest.raises(SurgeryError) as error:
        plan(inspection, op="cb", layers="all")
    return error.value.code


def test_a_causal_attn_mask_is_refused() -> None:
    given = model(causal=True)
    assert hides_the_future(given.module)
    assert code(inspect(given)) == "CB-LEAK-01"


def test_without_a_mask_nothing_is_refused() -> None:
    given = model()
    assert not hides_the_future(given.module)
    inspection = inspect(given)
    assert (inspection.causal, inspection.masks) == ((), ())
    assert len(plan(inspection, op="cb", layers="all")) == 2


def test_a_key_padding_mask_is_refused() -> None:
    inspection = inspect(model(padded=True))
    assert inspection.masks == ("filler",)
    assert inspection.causal == ()
    assert code(inspection) == "CB-LEAK-02"


def test_a_causal_model_with_padding_names_both() -> None:
    inspection = inspect(model(causal=True, padded=True))
    assert inspection.causal
    assert inspection.masks == ("filler",)


def test_the_causal_form_is_the_hand_written_one() -> None:
    given = model(causal=True)
    edited = cbs.insert(given, plan(inspect(given), op="cb", layers="all", causal=True)).module
    assert isinstance(given.module, Encoder)
    with torch.no_grad():
        expected = by_hand(given.module, tokens(), None)
        assert torch.allclose(edited(tokens()), expected, atol=CLOSE)
        assert not torch.allclose(given.module(tokens()), expected, atol=CLOSE)
    assert hides_the_future(edited)


def test_the_masked_form_is_the_hand_written_one_at_visible_tokens() -> None:
    given = model(padded=True)
    edited = cbs.insert(given, plan(inspect(given), op="cb", layers="all", masked=True)).module
    assert isinstance(given.module, Encoder)
    with torch.no_grad():
        expected = by_hand(given.module, tokens(), filler())[~filler()]
        assert torch.allclose(edited(tokens(), filler())[~filler()], expected, atol=CLOSE)
        other = tokens()
        other[filler()] *= -3
        assert torch.allclose(edited(other, filler())[~filler()], expected, atol=CLOSE)
