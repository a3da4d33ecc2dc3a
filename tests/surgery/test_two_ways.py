"""The module and the program give the same numbers, and both give those of the paper's formula applied by hand."""

from __future__ import annotations

import pytest
import torch

from cbsurgeon.errors import NothingMatched, SurgeryError
from cbsurgeon.graph import Inspection, Program, capture
from cbsurgeon.graph.block import POSITIONS
from cbsurgeon.graph.inspection import inspect
from cbsurgeon.models.model import Model
from cbsurgeon.surgery import Recipe, insert_module, insert_program, plan, remove
from tests.graph import readings
from tests.graph.networks import CASES
from tests.surgery import architectures, arms, by_hand

OPERATORS = ("cb", "cb_s")
WITHOUT_TRAINING = [name for name, case in CASES.items() if not case.training]


def _table() -> list[object]:
    """Every architecture at every position with each operator; half of it by default, in a checkerboard."""
    return [
        pytest.param(name, op, position, marks=() if (number + place + turn) % 2 == 0 else pytest.mark.slow)
        for number, name in enumerate(architectures.ARCHITECTURES)
        for place, position in enumerate(POSITIONS)
        for turn, op in enumerate(OPERATORS)
    ]


@pytest.mark.parametrize(("name", "op", "position"), _table())
def test_architecture(name: str, op: str, position: str) -> None:
    found, model, program = architectures.inspection(name), architectures.model(name), architectures.program(name)
    recipe = plan(found, op=op, layers="all", pos=position)
    assert len(recipe) == sum(block.default for block in found.blocks) > 0
    state = set(model.module.state_dict())
    edited, rewritten = insert_module(model, recipe), insert_program(architectures.as_program(name), recipe)
    added = set(edited.module.state_dict()) - state
    assert state <= set(edited.module.state_dict()), "no key may change"
    assert len(added) == (len(recipe) if op == "cb_s" else 0)
    assert set(rewritten.program.state_dict) - set(program.exported.state_dict) == added
    scaled = arms.scales(edited.module.state_dict())
    arms.scales(rewritten.program.state_dict)
    if op == "cb_s":
        assert {scaled[key].shape for key in added} == {(site.channels,) for site in recipe.active}
    inputs = program.example
    by_module = arms.run_module(edited.module, model)
    by_program = by_hand.run(capture(rewritten), {}, inputs)
    plain = by_hand.run(program, {}, inputs)
    as_captured = arms.same(arms.run_module(model.module, model), plain)
    assert arms.same(by_program, by_module, 0.0 if as_captured else arms.SHARE)
    reference = by_hand.run(program, arms.operators(found, recipe, scaled), inputs)
    assert arms.same(by_program, reference, arms.SHARE), arms.distance(by_program, reference)
    assert arms.distance(by_program, plain) > arms.TELLING * arms.SHARE
    _assert_undone(model, edited, rewritten, architectures.as_program(name))


def _assert_undone(model: Model, edited: Model, rewritten: Model, original: Model) -> None:
    restored = remove(edited)
    before, after = model.module.state_dict(), restored.module.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert arms.same(arms.run_module(restored.module, model), arms.run_module(model.module, model))
    back = remove(rewritten).program
    assert str(back.graph) == str(original.program.graph)
    assert str(back.graph_signature) == str(original.program.graph_signature)
    assert list(back.state_dict) == list(original.program.state_dict)
    for key, tensor in original.program.state_dict.items():
        assert back.state_dict[key] is tensor


def _by_default() -> list[object]:
    """Every network at one position by default, in turn; at the others when slow."""
    return [
        pytest.param(name, position, marks=() if number % 3 == place else pytest.mark.slow)
        for number, name in enumerate(WITHOUT_TRAINING)
        for place, position in enumerate(POSITIONS)
    ]


@pytest.mark.parametrize(("name", "position"), _by_default())
def test_network(name: str, position: str) -> None:
    """Every network of the finder's table, all blocks of every kind at once, CB_S with another vector per site."""
    program, case = readings.program(name), CASES[name]
    model = Model(case.module(), case.arguments(), example_kwargs=case.kwargs(), program=program.exported)
    found = inspect(model)
    kinds = {block.kind for block in found.blocks}
    refusal = "CB-LEAK" if found.causal or found.masks else "CB-LOCATE"
    if refusal == "CB-LEAK" or not any(position in block.sites for block in found.blocks):
        with pytest.raises((SurgeryError, NothingMatched)) as refused:
            plan_all(found, position, kinds)
        assert refused.value.code.startswith(refusal)
        return
    _compare_network(model, found, program, plan_all(found, position, kinds))


def plan_all(found: Inspection, position: str, kinds: set[str]) -> Recipe:
    return plan(found, op="cb_s", layers="all", pos=position, kinds=kinds or None, allow_partial=True)


def _compare_network(model: Model, found: Inspection, program: Program, recipe: Recipe) -> None:
    rewritten = insert_program(model, recipe)
    scaled = arms.scales(rewritten.program.state_dict)
    by_program = by_hand.run(capture(rewritten), {}, program.example)
    reference = by_hand.run(program, arms.operators(found, recipe, scaled), program.example)
    assert arms.same(by_program, reference, arms.SHARE), arms.distance(by_program, reference)
    assert str(remove(rewritten).program.graph) == str(program.exported.graph)
    if not all(site.hooks for site in recipe.active):
        with pytest.raises(SurgeryError, match="no module"):
            insert_module(model, recipe)
        return
    edited = insert_module(model, recipe)
    arms.scales(edited.module.state_dict())
    by_module = arms.run_module(edited.module, model)
    assert arms.same(by_module, by_program, arms.SHARE), arms.distance(by_module, by_program)
