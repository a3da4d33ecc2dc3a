"""Leaks are detected in forms that no rule describes: causal networks, and inputs that hide tokens.

The references run the networks themselves: tokens of the input are changed one by one, and outputs are compared.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import SurgeryError
from cbsurgeon.graph import Inspection
from tests.wild import disguises
from tests.wild.disguises import CAUSAL, PADDED, Causal

BATCH = 2
MOVED = 1e-5
"""Of outputs of order one, in float32: what two layers round is about 1e-7; a mean over nine tokens moves by 1e-2."""


def sample(shape: tuple[int, ...], batch: int = BATCH) -> Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))


def run(module: nn.Module, x: Tensor, *given: Tensor) -> Tensor:
    torch.manual_seed(7)  # some draw random numbers
    with torch.no_grad():
        return module(x, *given).flatten(1, -2)


def sees(module: nn.Module, x: Tensor, *given: Tensor) -> Tensor:
    """``[changed, moved]``: whether changing one token of the input moves a token of the output."""
    plain = run(module, x, *given)
    rows = []
    for place in range(x.flatten(1, -2).shape[1]):
        changed = x.clone().flatten(1, -2)
        changed[:, place] *= -3
        rows.append((run(module, changed.view(x.shape), *given) - plain).abs().amax((0, 2)) > MOVED)
    return torch.stack(rows)


def built(case: Causal) -> nn.Module:
    torch.manual_seed(0)
    return case.build().eval()


def code(found: Inspection, **options: bool) -> str:
    with pytest.raises(SurgeryError) as error:
        cbs.plan(found, op="cb", layers="all", options=options)
    return error.value.code


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", CAUSAL)
def test_every_causal_network_is_detected(name: str) -> None:
    case = CAUSAL[name]
    module, x = built(case), sample(case.shape)
    model = cbs.Model(module, (x,))
    found = cbs.inspect(model)
    assert found.blocks
    assert code(found) in ("CB-LEAK-01", "CB-LEAK-10")
    if name == "later-stage":
        return  # its output tokens are not those of its input
    before = sees(module, x)
    assert bool((before & ~before.T).any()), "tokens of the reference must be hidden"
    if not case.prefix:
        assert code(found, causal=True) in ("CB-LEAK-10", "CB-SURGERY-06")
        return
    recipe = cbs.plan(found, op="cb", layers="all", options={"causal": True})
    try:
        edited = cbs.insert(model, recipe).module
    except SurgeryError as error:
        assert error.code == "CB-SURGERY-02"
        edited = cbs.insert(model, recipe, on="program").program.module()
    after = sees(edited, x)
    hidden = before & ~before.T  # a token that is seen by one it does not see
    assert not bool((after & hidden.T).any())
    assert bool((run(edited, x) - run(module, x)).abs().max() > MOVED)


def test_frames_that_see_each_other_are_free() -> None:
    torch.manual_seed(0)
    for case in (
        Causal(lambda: disguises.Network(lambda: disguises.Frames(causal=False)), (3, 4, disguises.WIDTH)),
        Causal(lambda: disguises.Network(lambda: disguises.Frames(causal=False, flat=True)), (12, disguises.WIDTH)),
        Causal(lambda: disguises.Network(disguises.Softmax)),
        Causal(lambda: disguises.Network(disguises.Nothing)),
    ):
        found = cbs.inspect(cbs.Model(built(case), (sample(case.shape),)))
        assert len(cbs.plan(found, op="cb", layers="all")) == 2


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", PADDED)
def test_every_input_that_hides_tokens_is_detected(name: str) -> None:
    case = PADDED[name]
    torch.manual_seed(0)
    module, x = case.build().eval(), sample(case.shape)
    given, hiding = case.given(), case.hiding()
    tokens = x.flatten(1, -2).shape[1]
    kept = torch.arange(tokens) < (disguises.FIRST if tokens == disguises.LENGTH else 8)
    open_, closed = sees(module, x, given), sees(module, x, hiding)
    assert bool(open_[~kept][:, kept].any())
    assert bool(closed[~kept][:, kept].any()) != case.hides
    found = cbs.inspect(cbs.Model(module, (x, given)))
    assert found.blocks
    if case.hides:
        assert code(found) == "CB-LEAK-02"
        assert code(found, masked=True) in ("CB-LEAK-06", "CB-SURGERY-06")  # no mask is proved; several token axes
    else:
        assert len(cbs.plan(found, op="cb", layers="all")) == 2
