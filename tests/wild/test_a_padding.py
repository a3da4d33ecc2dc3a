"""Inputs that hide padding in any spelling are recognised, and inputs that hide nothing are not.

The references do not read a graph: the content of hidden tokens is changed, and the others must not move.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cbsurgeon.errors import SurgeryError
from cbsurgeon.graph import inspect
from cbsurgeon.models.model import Model
from cbsurgeon.surgery import insert_module, plan
from tests.wild.mixers import BATCH, LENGTH, WIDTH, Projected, distance, scores

CLOSE = 1e-5
"""float32: two blocks of sums over at most 32 numbers of order one round to about 1e-6."""

KEPT = 5


class Layer(Projected):
    """A pre-norm block whose attention is given ``keep``, ``[batch, tokens, 1]``, one for a token."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def run(self, x: Tensor, keep: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.out(self.attend(self.q(y), self.k(y), self.v(y), keep))
        return x + self.mlp(self.norm2(x))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
        raise NotImplementedError


class Exponentials(Layer):
    """``exp(scores) * m``, divided by the sum."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
        weights = scores(q, k).exp() * keep.transpose(1, 2)
        return weights / weights.sum(-1, keepdim=True) @ v


class Keys(Layer):
    """``keys * m`` and ``values * m`` in linear attention."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
        q, k = nn.functional.elu(q) + 1, (nn.functional.elu(k) + 1) * keep
        return torch.einsum("bnd,bde->bne", q, torch.einsum("bnd,bne->bde", k, v)) / (q @ k.sum(1).unsqueeze(-1))


class Values(Layer):
    """``values * m`` and no normalisation."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
        return scores(q, k) @ (v * keep)


class CausalValues(Layer):
    """The same after a decay that hides later tokens."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
        far = distance(LENGTH)
        return (scores(q, k) * torch.where(far >= 0, 0.9 ** far.clamp(min=0), torch.tensor(0.0))) @ (v * keep)


class Weights(Layer):
    """The weights after the softmax are multiplied and divided by their sum."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
        weights = scores(q, k).softmax(-1) * keep.transpose(1, 2)
        return weights / weights.sum(-1, keepdim=True) @ v


class Pooled(Layer):
    """A masked mean of the values is added to every token."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
        return q * (v * keep).sum(1, keepdim=True) / keep.sum(1, keepdim=True)


class Ignored(Layer):
    """The mask scales the queries' own result: it hides no token from another."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
        return (scores(q, k) @ v) * (1 + keep)


class Given(nn.Module):
    """Two layers; what the user gives becomes ``keep`` in a subclass's way."""

    def __init__(self, make: type[Layer]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([make(), make()])

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        keep = self.keep(given).to(x.dtype).unsqueeze(-1)
        for layer in self.layers:
            assert isinstance(layer, Layer)
            x = layer.run(x, keep)
        return x

    def keep(self, given: Tensor) -> Tensor:
        return given


class Inverted(Given):
    """One, or true, marks padding."""

    def keep(self, given: Tensor) -> Tensor:
        return ~given


class Lengths(Given):
    """The number of tokens of each sample."""

    def keep(self, given: Tensor) -> Tensor:
        return torch.arange(LENGTH)[None, :] < given[:, None]


class Numbers(Given):
    """Token numbers, of which 1 is padding."""

    def keep(self, given: Tensor) -> Tensor:
        return given != 1


def tokens() -> Tensor:
    return torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


def kept() -> Tensor:
    keep = torch.ones(BATCH, LENGTH)
    keep[-1, KEPT:] = 0
    return keep


def words() -> Tensor:
    number = torch.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) % 7 + 2
    number[-1, KEPT:] = 1
    return number


GIVEN: dict[str, tuple[type[Given], Tensor]] = {
    "ones": (Given, kept()),
    "inverted": (Inverted, kept() == 0),
    "lengths": (Lengths, torch.tensor([LENGTH, KEPT])),
    "numbers": (Numbers, words()),
}


def hides(module: nn.Module, given: Tensor) -> bool:
    """Change the padding of the last sample: none of its tokens may move."""
    x = tokens()
    changed = x.clone()
    changed[-1, KEPT:] *= -3
    with torch.no_grad():
        return torch.allclose(module(x, given)[-1, :KEPT], module(changed, given)[-1, :KEPT], atol=CLOSE)


@pytest.mark.thin(3)
@pytest.mark.parametrize("how", GIVEN)
@pytest.mark.parametrize("make", [Exponentials, Keys, Values, Weights, Pooled])
def test_padding_is_recognised(make: type[Layer], how: str) -> None:
    outer, given = GIVEN[how]
    module = outer(make).eval()
    assert hides(module, given)
    inspection = inspect(Model(module, (tokens(), given)))
    assert inspection.masks == ("given",)
    for options in ({}, {"masked": True}):
        with pytest.raises(SurgeryError) as error:
            plan(inspection, op="cb", layers="all", **options)
        assert error.value.code == ("CB-LEAK-06" if options else "CB-LEAK-02")
        assert "given" in str(error.value)


def test_padding_of_a_causal_stack_is_recognised_beside_its_order() -> None:
    module = Given(CausalValues).eval()
    assert hides(module, kept())
    inspection = inspect(Model(module, (tokens(), kept())))
    assert inspection.causal
    assert inspection.masks == ("given",)


@pytest.mark.parametrize("how", GIVEN)
def test_an_input_that_hides_nothing_is_no_mask(how: str) -> None:
    outer, given = GIVEN[how]
    module = outer(Ignored).eval()
    assert not hides(module, given)
    inspection = inspect(Model(module, (tokens(), given)))
    assert (inspection.causal, inspection.masks) == ((), ())
    assert len(plan(inspection, op="cb", layers="all")) == 2


class Replaced(Given):
    """Marked tokens are replaced by a learned one before the first layer, as in masked image modelling: they are
    tokens like the others afterwards."""

    def __init__(self, make: type[Layer]) -> None:
        super().__init__(make)
        self.token = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        x = torch.where(given[..., None] > 0, x, self.token)
        return super().forward(x, torch.ones_like(given))


def test_replaced_tokens_are_no_padding() -> None:
    inspection = inspect(Model(Replaced(Values).eval(), (tokens(), kept())))
    assert inspection.masks == ()
    assert len(plan(inspection, op="cb", layers="all")) == 2


class Attending(nn.Module):
    """A pre-norm layer of a decoder: self-attention, attention to a memory, MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.cross = (nn.MultiheadAttention(WIDTH, 2, batch_first=True) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor, memory: Tensor, padding: Tensor, by_hand: bool) -> Tensor:
        y = self.norms[0](x)
        x = x + self.own(y, y, y, need_weights=False)[0]
        x = x + self.cross(self.norms[1](x), memory, memory, key_padding_mask=padding, need_weights=False)[0]
        y = self.mlp(self.norms[2](x))
        return x + ((y + y.mean(1, keepdim=True)) / 2 if by_hand else y)


class TextToImage(nn.Module):
    """Image tokens attend to a padded text, which is read from another input."""

    def __init__(self) -> None:
        super().__init__()
        self.text = nn.Linear(WIDTH, WIDTH)
        self.layers = nn.ModuleList(Attending() for _ in range(2))

    def forward(self, x: Tensor, text: Tensor, mask: Tensor, by_hand: bool = False) -> Tensor:
        memory = self.memory(x, text)
        padding = mask[:, : memory.shape[1]] == 0
        for layer in self.layers:
            x = layer(x, memory, padding, by_hand)
        return x

    def memory(self, x: Tensor, text: Tensor) -> Tensor:
        return self.text(text)


class TextAndImage(TextToImage):
    """The keys are text and image tokens, and the mask hides tokens of both."""

    def memory(self, x: Tensor, text: Tensor) -> Tensor:
        return torch.cat([self.text(text), x], 1)


class PartOfTheImage(TextToImage):
    """The keys are all image tokens but one."""

    def memory(self, x: Tensor, text: Tensor) -> Tensor:
        return self.text(x[:, 1:])


def pictured(words: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    mask = torch.ones(BATCH, words, dtype=torch.long)
    mask[1, -2:] = 0
    return (
        torch.randn(BATCH, LENGTH, WIDTH, generator=generator),
        torch.randn(BATCH, LENGTH + 3, WIDTH, generator=generator),
        mask,
    )


def test_padding_of_the_tokens_that_are_attended_to_is_not_padding_of_those_that_attend() -> None:
    """No image token is hidden, so that their mean mixes no padding in: padded words still change nothing."""
    torch.manual_seed(0)
    module, inputs = TextToImage().eval(), pictured(LENGTH + 3)
    model = Model(module, inputs)
    edited = insert_module(model, plan(inspect(model), op="cb", layers="all")).module
    assert edited is not None
    with torch.no_grad():
        assert torch.allclose(edited(*inputs), module(*inputs, by_hand=True), atol=CLOSE)
        image, text, mask = inputs
        other = torch.where(mask[..., None] == 0, torch.full_like(text, 9.0), text)
        assert torch.equal(edited(image, other, mask), edited(*inputs))


@pytest.mark.parametrize(("make", "keys"), [(TextAndImage, 2 * LENGTH + 3), (PartOfTheImage, LENGTH - 1)])
def test_keys_that_hold_some_of_the_attending_tokens_are_refused(make: type[TextToImage], keys: int) -> None:
    torch.manual_seed(0)
    module, inputs = make().eval(), pictured(keys)
    found = inspect(Model(module, inputs))
    with pytest.raises(SurgeryError) as caught:
        plan(found, op="cb", layers="all")
    assert caught.value.code == "CB-LEAK-02"
