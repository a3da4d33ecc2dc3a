"""Networks of the finder's table: module and program give the numbers of the paper's formula applied by hand."""

from __future__ import annotations

import pytest

from cbsurgeon.errors import NothingMatched, SurgeryError
from cbsurgeon.graph import Inspection, Program
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.inspection import inspect
from cbsurgeon.models.model import Model
from cbsurgeon.surgery import Recipe, insert_module, insert_program, plan, remove
from cbsurgeon.vocabulary import POSITIONS
from tests.graph import readings
from tests.graph.networks import CASES
from tests.surgery import arms, by_hand

WITHOUT_TRAINING = [name for name, case in CASES.items() if not case.training]


def _by_default() -> list[object]:
    """Every sixth network at one position by default, in turn; everything else when slow."""
    return [
        pytest.param(name, position, marks=() if number % 18 == 6 * place else pytest.mark.slow)
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
