"""Networks whose tokens do not see later ones are recognised in any spelling, and only they are.

The references do not read a graph. What a network hides is seen by changing its input; the causal form is computed by
hand-written loops.
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
from tests.wild import mixers
from tests.wild.mixers import BATCH, LENGTH, WIDTH, Network

CLOSE = 1e-5
"""float32: two blocks of sums over at most 32 numbers of order one round to about 1e-6."""


def tokens() -> Tensor:
    return torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


def sees(module: nn.Module) -> Tensor:
    """``[changed, moved]``: whether changing one token of the input moves another of the output."""
    x = tokens()
    seen = torch.zeros(LENGTH, LENGTH, dtype=torch.bool)
    with torch.no_grad():
        plain = module(x)
        for place in range(LENGTH):
            changed = x.clone()
            changed[:, place] *= -3  # a constant would be cancelled by the norms
            seen[place] = ((module(changed) - plain).abs() > CLOSE).any(dim=-1).any(dim=0)
    return seen


def causal_by_hand(module: Network, x: Tensor) -> Tensor:
    """CB at the end of every MLP, with the mean of the tokens up to a token."""
    for layer in module.layers:
        assert isinstance(layer, mixers.Layer)
        x = x + layer.mixer(layer.norm1(x))
        y = layer.mlp(layer.norm2(x))
        x = x + torch.stack([(y[:, i] + y[:, : i + 1].mean(dim=1)) / 2 for i in range(LENGTH)], dim=1)
    return x


def refusal(inspection: Inspection, **options: bool) -> str:
    with pytest.raises(SurgeryError) as error:
        plan(inspection, op="cb", layers="all", **options)
    return error.value.code


@pytest.mark.parametrize("make", mixers.CAUSAL)
def test_hidden_later_tokens_are_recognised(make: type[nn.Module]) -> None:
    module = Network(make).eval()
    assert not sees(module).tril(-1).any()
    given = Model(module, (tokens(),))
    inspection = inspect(given)
    assert len([block for block in inspection.blocks if block.default]) == 2
    assert refusal(inspection) == "CB-LEAK-01"
    edited = cbs.insert(given, plan(inspection, op="cb", layers="all", causal=True)).module
    with torch.no_grad():
        assert torch.allclose(edited(tokens()), causal_by_hand(module, tokens()), atol=CLOSE)
    assert not sees(edited).tril(-1).any()


@pytest.mark.parametrize("make", mixers.PARTLY)
def test_tokens_that_see_only_some_later_ones_are_recognised(make: type[nn.Module]) -> None:
    module = Network(make).eval()
    before = sees(module)
    assert before.tril(-1).any()
    assert not before.all()
    given = Model(module, (tokens(),))
    inspection = inspect(given)
    assert refusal(inspection) == "CB-LEAK-01"
    edited = cbs.insert(given, plan(inspection, op="cb", layers="all", causal=True)).module
    assert not (sees(edited) & ~before).any()


@pytest.mark.parametrize("make", mixers.OPEN)
def test_tokens_that_see_both_neighbours_are_not_refused(make: type[nn.Module]) -> None:
    inspection = inspect(Model(Network(make).eval(), (tokens(),)))
    assert inspection.causal == ()
    assert len(plan(inspection, op="cb", layers="all")) == 2


def test_a_branch_that_starts_switched_off_is_recognised() -> None:
    module = Network(mixers.GatedByZero).eval()
    assert not sees(module).fill_diagonal_(False).any()  # as it is, it mixes nothing; trained, it is causal
    assert refusal(inspect(Model(module, (tokens(),)))) == "CB-LEAK-01"


@pytest.mark.parametrize("mlp_first", [False, True])
@pytest.mark.parametrize("make", [mixers.Retention, mixers.CausalConvolution, mixers.RunningMean])
def test_one_layer_is_enough(make: type[nn.Module], mlp_first: bool) -> None:
    """The only token mixer is before the first block that is found, or after the last one."""
    module = Network(make, depth=1, mlp_first=mlp_first).eval()
    assert not sees(module).tril(-1).any()
    assert refusal(inspect(Model(module, (tokens(),)))) == "CB-LEAK-01"


def test_hidden_earlier_tokens_are_refused_in_every_form() -> None:
    """The causal form averages over the tokens up to each, which are the hidden ones here."""
    module = Network(mixers.Backwards).eval()
    assert not sees(module).triu(1).any()
    inspection = inspect(Model(module, (tokens(),)))
    assert refusal(inspection) == refusal(inspection, causal=True) == "CB-LEAK-10"


class Flat(nn.Module):
    """``view`` of a tensor that has to be contiguous, as the embedding's result is."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Network(mixers.Retention)

    def forward(self, x: Tensor) -> Tensor:
        y = x + 0.1
        return self.inner(y + y.view(-1, WIDTH).view(y.shape))


def test_changed_tokens_keep_the_strides_that_a_view_relies_on() -> None:
    assert refusal(inspect(Model(Flat().eval(), (tokens(),)))) == "CB-LEAK-01"


class TwoTowers(nn.Module):
    """A text tower that is causal and a visual one that is not, as in CLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.text = Network(mixers.OpenDecay), Network(mixers.CausalAlibi)
        self.project = nn.Linear(WIDTH, WIDTH)

    def forward(self, image: Tensor, words: Tensor) -> Tensor:
        return self.project(self.visual(image).mean(1)) @ self.text(words)[:, -1].t()


def test_a_causal_tower_leaves_the_other_one_free() -> None:
    module = TwoTowers().eval()
    words = tokens()[:, :6]
    words = torch.cat([words, words[:, :2]], 1)
    given = Model(module, (tokens(), words))
    inspection = inspect(given)
    assert len(inspection.stacks) == 2
    visual, text = inspection.stacks
    assert set(inspection.causal_stacks) == {text}
    edited = cbs.insert(given, plan(inspection, op="cb", layers=f"{visual}:all")).module
    x = tokens()
    with torch.no_grad():
        for layer in module.visual.layers:
            assert isinstance(layer, mixers.Layer)
            x = x + layer.mixer(layer.norm1(x))
            y = layer.mlp(layer.norm2(x))
            x = x + (y + y.mean(1, keepdim=True)) / 2
        expected = module.project(x.mean(1)) @ module.text(words)[:, -1].t()
        assert torch.allclose(edited(tokens(), words), expected, atol=10 * CLOSE)


@pytest.mark.parametrize("layers", ["all", "upper"])
def test_a_choice_that_reaches_into_the_causal_tower_is_refused_with_the_way_out(layers: str) -> None:
    inspection = inspect(Model(TwoTowers().eval(), (tokens(), tokens())))
    with pytest.raises(SurgeryError) as error:
        plan(inspection, op="cb", layers=layers)
    assert error.value.code == "CB-LEAK-01"
    assert inspection.stacks[1] in error.value.where
    assert f"--layers {inspection.stacks[0]}" in error.value.do
