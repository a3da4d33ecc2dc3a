"""The recipe as a document: it comes back as it was, can be edited by hand, and is refused where it does not belong."""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

import pytest
import torch

from cbsurgeon.errors import CBSurgeonError, InputFileError, NothingMatched, SurgeryError, UsageError
from cbsurgeon.graph import Inspection
from cbsurgeon.graph.inspection import inspect
from cbsurgeon.models.model import Model
from cbsurgeon.surgery import Recipe, insert_, insert_module, insert_program, plan
from cbsurgeon.surgery.module.attachment import attached
from cbsurgeon.surgery.program import rewrite
from cbsurgeon.verbs.editing import repeat
from tests.surgery import architectures, arms

NAME = "deit"
OTHERS = {"swin": "number of blocks and paths", "hf vit": "paths", "deit3 with layer scale": "widths"}


def found() -> Inspection:
    return architectures.inspection(NAME)


def recipe(**how: Any) -> Recipe:
    return plan(found(), **{"op": "cb_s", "layers": "all", "initial": 0.25, **how})


@pytest.mark.parametrize("name", ["deit", "mixer", "swin"])
@pytest.mark.parametrize("op", ["cb", "cb_s"])
def test_round_trip(name: str, op: str) -> None:
    made = plan(architectures.inspection(name), op=op)
    text = made.to_json()
    assert Recipe.from_json(text) == made
    assert Recipe.from_json(text).to_json() == text
    assert plan(architectures.inspection(name), op=op).to_json() == text, "byte-stable"
    sorted_by_a_file = json.dumps(json.loads(text), sort_keys=True)
    assert Recipe.from_json(sorted_by_a_file).to_json() == text, "whatever order a file keeps its keys in"


def test_applies_to_a_freshly_built_model() -> None:
    text = recipe().to_json()
    fresh, _, _ = architectures.ARCHITECTURES[NAME]()
    insert_(fresh, Recipe.from_json(text))
    assert [path for path, _, _, _ in attached(fresh)] == [site.hooks[0].module for site in recipe().sites]


def test_a_site_switched_off_by_hand() -> None:
    document = json.loads(recipe().to_json())
    document["sites"][0]["enabled"] = False
    edited = Recipe.from_dict(document)
    assert edited.indices == (1,)
    assert edited == recipe().without(0)
    model = architectures.model(NAME)
    one = insert_module(model, edited)
    only = insert_module(model, recipe(layers="1"))
    assert list(one.module.state_dict()) == list(only.module.state_dict())
    assert arms.same(arms.run_module(one.module, model), arms.run_module(only.module, model))
    rewritten = insert_program(architectures.as_program(NAME), edited)
    assert len(rewritten.program.state_dict) == len(architectures.as_program(NAME).program.state_dict) + 1


def test_exclusions_are_recorded() -> None:
    made = recipe(exclude=[0])
    assert made.indices == (1,)
    assert [(block.index, block.reason) for block in made.excluded] == [(0, "excluded on request")]
    with pytest.raises(NothingMatched, match="CB-LOCATE-02"):
        recipe(exclude=[0, 1])


@pytest.mark.parametrize("other", OTHERS)
def test_another_structure(other: str) -> None:
    model = architectures.model(other)
    before = copy.deepcopy(model.module.state_dict())
    for refuse in (
        lambda: insert_module(model, recipe(), in_place=True),
        lambda: insert_program(architectures.as_program(other), recipe()),
    ):
        with pytest.raises(SurgeryError, match="CB-RECIPE-03") as refused:
            refuse()
        assert "block 0" in refused.value.why
        assert NAME in refused.value.where
    assert list(model.module.state_dict()) == list(before)
    assert not list(attached(model.module))


def test_fewer_blocks() -> None:
    document = recipe(layers="0").to_dict()
    document["structure"] = document["structure"][:1]
    with pytest.raises(SurgeryError, match="CB-RECIPE-03") as refused:
        insert_program(architectures.as_program(NAME), Recipe.from_dict(document))
    assert refused.value.why == "2 blocks here, 1 in the recipe"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda d: d.update(schema="cbsurgeon.recipe/2"), "CB-RECIPE-01"),
        (lambda d: d.pop("op"), "CB-RECIPE-02"),
        (lambda d: d.pop("sites"), "CB-RECIPE-02"),
        (lambda d: d.update(sites=3), "CB-RECIPE-02"),
        (lambda d: d["sites"][0].update(enabled="no"), "CB-RECIPE-02"),
        (lambda d: d["sites"][0].update(position="middle"), "CB-RECIPE-02"),
        (lambda d: d["sites"][0].update(token_axes="x"), "CB-RECIPE-02"),
        (lambda d: d["sites"][0].pop("channels"), "CB-RECIPE-02"),
        (lambda d: d.update(versions=[]), "CB-RECIPE-02"),
    ],
)
def test_a_document_that_is_no_recipe(change: Any, code: str) -> None:
    document = json.loads(recipe().to_json())
    change(document)
    with pytest.raises(UsageError, match=code):
        Recipe.from_dict(document)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "[" * 100_000])
def test_text_that_is_no_recipe(text: str) -> None:
    with pytest.raises(UsageError, match="CB-RECIPE-01"):
        Recipe.from_json(text)


class TestTwice:
    """A second operator at an occupied site is refused wherever it could be put there."""

    @pytest.mark.parametrize("position", ["front", "mid", "end"])
    @pytest.mark.parametrize("op", ["cb", "cb_s"])
    def test_when_planning(self, op: str, position: str) -> None:
        model = architectures.model(NAME)
        options = {"initial": 0.25} if op == "cb_s" else {}
        edited = insert_module(model, plan(found(), op=op, layers="all", pos=position, **options))
        with pytest.raises(SurgeryError, match="CB-SURGERY-03") as refused:
            plan(inspect(edited), op="cb", layers="all", pos=position)
        assert f"{op} is there" in refused.value.where
        assert "remove" in refused.value.do

    @pytest.mark.parametrize("second", ["cb", "cb_s"])
    def test_when_attaching(self, second: str) -> None:
        edited = insert_module(architectures.model(NAME), recipe(layers="1"))
        state = list(edited.module.state_dict())
        with pytest.raises(SurgeryError, match="CB-SURGERY-03"):
            insert_(edited.module, plan(found(), op=second, layers="all"))
        assert list(edited.module.state_dict()) == state, "block 0 was free, and stays so"
        assert len(list(attached(edited.module))) == 1

    @pytest.mark.parametrize("second", ["cb", "cb_s"])
    def test_when_rewriting(self, second: str) -> None:
        from cbsurgeon.graph.capture import capture

        edited = insert_program(architectures.as_program(NAME), recipe(layers="1"))
        with pytest.raises(SurgeryError, match="CB-SURGERY-03"):
            rewrite(capture(edited), plan(found(), op=second, layers="all"))

    def test_another_position_is_free(self) -> None:
        model = architectures.model(NAME)
        both = insert_module(insert_module(model, recipe(pos="front")), recipe(pos="end"))
        assert len(list(attached(both.module))) == 4


def test_nothing_to_remove() -> None:
    from cbsurgeon.surgery import remove

    for model in (architectures.model(NAME), architectures.as_program(NAME)):
        with pytest.raises(NothingMatched, match="CB-REMOVE-01"):
            remove(model)


def test_a_program_has_no_module() -> None:
    with pytest.raises(CBSurgeonError, match="CB-SURGERY-01"):
        insert_module(architectures.as_program(NAME), recipe())


@pytest.mark.parametrize("how", [{"pos": "middle"}, {"at": "head"}, {"op": "cbs"}])
def test_unknown_words(how: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"CB-PLAN-01|CB-OP-01"):
        plan(found(), **how)  # type: ignore[arg-type]


def test_cb_s_at_zero_is_bit_equal() -> None:
    for name in ("deit", "mixer", "swin", "hf vit"):
        model = architectures.model(name)
        for position in ("front", "mid", "end"):
            edited = insert_module(model, plan(architectures.inspection(name), op="cb_s", layers="all", pos=position))
            assert arms.same(arms.run_module(edited.module, model), arms.run_module(model.module, model))


def test_the_input_model_is_untouched() -> None:
    model = architectures.model(NAME)
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    insert_module(model, recipe())
    insert_program(Model(model.module, model.example_inputs, program=architectures.program(NAME).exported), recipe())
    after = model.module.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not list(attached(model.module))


def test_a_file_does_not_decide_what_is_imported() -> None:
    """``this`` is a module that prints when it is imported, and that nothing here imports."""
    document = {**recipe().to_dict(), "op": "mod:this:Zen"}
    with pytest.raises(InputFileError, match="CB-TRUST-01"):
        repeat(architectures.model(NAME), [document])
    assert "this" not in sys.modules
    with pytest.raises(UsageError, match="CB-OP-04"):
        repeat(architectures.model(NAME), [document], trust=True)


def test_the_result_of_insert_is_read_as_its_recipe() -> None:
    """``insert --json`` prints a document that holds the recipe."""
    recipe = plan(architectures.inspection("deit"), op="cb", layers="1")
    document = json.dumps({"schema": "cbsurgeon.insert/1", "recipe": recipe.to_dict()})
    assert Recipe.from_json(document) == recipe
    with pytest.raises(UsageError, match="CB-RECIPE-01"):
        Recipe.from_json(json.dumps({"schema": "cbsurgeon.insert/1"}))
