"""Operators and their forms x places x positions x architectures, on the module and on the program.

For every row: both ways agree with each other and with the formula applied by hand to the unedited graph, gradients
reach every new parameter both ways, removing gives the original back, and what cannot stand is refused with its reason.
By default a part of the table that holds every operator at every position and every architecture runs; all 644
rows with ``pytest -m "slow or not slow" tests/surgery/test_table.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from cbsurgeon.errors import CBSurgeonError, SurgeryError
from cbsurgeon.graph import Inspection
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model
from cbsurgeon.surgery import Recipe, insert_module, insert_program, plan, remove
from cbsurgeon.vocabulary import POSITIONS
from tests.surgery import architectures, arms, by_hand, own

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "cb": ("cb", {}),
    "cb_s": ("cb_s", {}),
    "gate": ("cb_gate", {}),
    "hybrid": ("cb_hybrid", {}),
    "se": ("se", {"reduction": 4}),
    "retrofit": ("cb_retrofit", {"strength": 0.3}),
    "own": (own.NAME, {"by": 2}),
    "cb causal": ("cb", {"causal": True}),
    "cb_s causal": ("cb_s", {"causal": True}),
    "cb slice": ("cb", {"tokens": "1:"}),
    "cb_s slice": ("cb_s", {"tokens": ":-1"}),
}
PLACES = [*(("mlp", position) for position in POSITIONS), ("msa", "end"), ("msa", "front"), ("msa", "mid")]

WITH_CLASS_TOKEN = {"deit", "deit3 with layer scale", "pit", "eva with gated mlp", "torchvision vit", "hf vit"}
SEVERAL_TOKEN_AXES = {("torchvision swin", "mlp")}
"""Its tokens lie in rows and columns, [B, H, W, C]; the others' are one axis, and those inside its windows too."""
WITHOUT_ATTENTION = {"mixer"}
WITHOUT_MODULE = {("torchvision swin", "msa")}
"""Where the tensor is made inside one forward(), between two modules."""


def refusal(name: str, form: str, place: str, position: str) -> tuple[str, str] | None:
    """The code and the reason of what must be refused, from what the architectures are known to be."""
    op, options = FORMS[form]
    if place == "msa" and name in WITHOUT_ATTENTION:
        return "CB-LOCATE-01", "attention"
    if place == "msa" and position != "end":
        return "CB-LOCATE-04", "only its End"
    if (name, place) in SEVERAL_TOKEN_AXES and (
        options.keys() & {"causal", "tokens"} or op in ("cb_gate", "cb_hybrid")
    ):
        return "CB-SURGERY-06", "single token axis"
    if op in ("cb_gate", "cb_hybrid") and name not in WITH_CLASS_TOKEN:
        return "CB-SURGERY-06", "no class token can be proved"
    return None


def rows() -> list[Any]:
    """The whole table; the part that runs by default is not slow."""
    names = list(architectures.ARCHITECTURES)
    chosen = set()
    able_places = PLACES[:4]
    wanted = [(form, place) for place in able_places for form in FORMS if " " not in form]
    wanted += [(form, able_places[turn % 4]) for turn, form in enumerate(form for form in FORMS if " " in form)]
    for number, (form, (place, position)) in enumerate(wanted):
        able = [name for name in names if refusal(name, form, place, position) is None]
        chosen.add((able[number % len(able)], form, place, position))
    refused: dict[tuple[str, str], tuple[str, str, str, str]] = {}
    every = [(name, form, *place) for name in names for form in FORMS for place in PLACES]
    for row in every:
        why = refusal(*row)
        if why is not None:
            refused.setdefault(why, row)
    chosen |= set(refused.values())
    assert {row[0] for row in chosen} == set(names)
    return [
        pytest.param(*row, id="-".join(row), marks=() if row in chosen else pytest.mark.slow)
        for row in every
        if row[2] == "mlp" or row[3] == "end" or row[1] == "cb"  # attention's other positions are one refusal
    ]


@pytest.mark.thin(3)
@pytest.mark.parametrize(("name", "form", "place", "position"), rows())
def test_row(name: str, form: str, place: str, position: str) -> None:
    found, model = architectures.inspection(name), architectures.model(name)
    op, options = FORMS[form]
    why = refusal(name, form, place, position)
    if why is not None:
        with pytest.raises(CBSurgeonError) as refused:
            plan(found, op=op, layers="all", pos=position, at=place, **options)
        assert (refused.value.code, why[1] in str(refused.value)) == (why[0], True), refused.value
        return
    recipe = plan(found, op=op, layers="all", pos=position, at=place, **options)
    assert len(recipe) == sum(block.default for block in found.blocks) if place == "mlp" else len(found.attention)
    rewritten = insert_program(architectures.as_program(name), recipe)
    edited = None if (name, place) in WITHOUT_MODULE else insert_module(model, recipe)
    if edited is None:
        with pytest.raises(SurgeryError, match="CB-SURGERY-02"):
            insert_module(model, recipe)
    compare(name, found, recipe, edited, rewritten)
    gradients(model, edited, rewritten, architectures.program(name).exported.state_dict)
    undone(model, edited, rewritten, architectures.as_program(name))


def compare(name: str, found: Inspection, recipe: Recipe, edited: Model | None, rewritten: Model) -> None:
    """Module, program and formula; the keys; and that anything happened at all."""
    model, program = architectures.model(name), architectures.program(name)
    assert set(program.exported.state_dict) <= set(rewritten.program.state_dict)
    added = set(rewritten.program.state_dict) - set(program.exported.state_dict)
    assert len(added) == len(recipe) * {"cb_s": 1, "se": 4, "cb_retrofit": 1, own.NAME: 1}.get(recipe.op, 0)
    state = arms.tell(rewritten.program.state_dict, added)
    by_program = by_hand.run(capture(rewritten), {}, program.example)
    plain = by_hand.run(program, {}, program.example)
    wanted = by_hand.run(program, arms.operators(found, recipe, state), program.example)
    assert arms.same(by_program, wanted, arms.SHARE), arms.distance(by_program, wanted)
    assert arms.distance(by_program, plain) > arms.TELLING * arms.SHARE
    if edited is None:
        return
    assert set(edited.module.state_dict()) - set(model.module.state_dict()) == added, "no key may change"
    arms.tell(edited.module.state_dict(), added)
    exact = arms.same(arms.run_module(model.module, model), plain)
    by_module = arms.run_module(edited.module, model)
    assert arms.same(by_program, by_module, 0.0 if exact else arms.SHARE), arms.distance(by_program, by_module)


def gradients(model: Model, edited: Model | None, rewritten: Model, before: Mapping[str, Tensor]) -> None:
    """Every new parameter gets a gradient that is not zero, on the module and on the program."""
    for module in (edited.module if edited else None, rewritten.program.module(check_guards=False)):
        if module is None:
            continue
        new = {key: tensor for key, tensor in module.named_parameters() if key not in before}
        if not new:
            continue
        with torch.enable_grad():
            outputs = arms.tensors(module(*model.example_inputs, **model.example_kwargs))
            loss = sum(output.square().sum() for output in outputs if output.requires_grad)
            for key, gradient in zip(new, torch.autograd.grad(loss, list(new.values())), strict=True):
                assert bool((gradient != 0).any()), key


def undone(model: Model, edited: Model | None, rewritten: Model, original: Model) -> None:
    """Removing gives back the very tensors, the bits and the graph."""
    back = remove(rewritten).program
    assert str(back.graph) == str(original.program.graph)
    assert str(back.graph_signature) == str(original.program.graph_signature)
    assert list(back.state_dict) == list(original.program.state_dict)
    assert all(back.state_dict[key] is tensor for key, tensor in original.program.state_dict.items())
    if edited is None:
        return
    restored = remove(edited)
    before, after = model.module.state_dict(), restored.module.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert arms.same(arms.run_module(restored.module, model), arms.run_module(model.module, model))
