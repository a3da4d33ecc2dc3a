"""A recipe that was edited by hand is taken as it is written, or refused with the field that is wrong."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import cbsurgeon as cbs
from cbsurgeon.errors import NothingMatched, SurgeryError, UsageError
from cbsurgeon.surgery.agreement import refuse_other_sites
from cbsurgeon.surgery.refusals import occupied


@cache
def model() -> cbs.Model:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    return cbs.Model(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), (torch.randn(2, 5, 8),))


@cache
def recipe() -> cbs.Recipe:
    return cbs.plan(cbs.inspect(model()), op="cb", layers="all")


def edited(**changes: Any) -> dict[str, Any]:
    """The recipe's document with other values in its first site."""
    document = copy.deepcopy(recipe().to_dict())
    document["sites"][0] |= changes
    return document


def test_the_recipe_itself_is_read() -> None:
    assert cbs.Recipe.from_dict(edited()) == recipe()


HOOK = {"module": "layers.0", "when": "output"}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"enabeld": False}, "did you mean enabled"),
        ({"enabled": "false"}, "not true or false"),
        ({"index": 0.7}, "not a whole number"),
        ({"index": True}, "not a whole number"),
        ({"index": "0"}, "not a whole number"),
        ({"index": -1}, "not a whole number from 0"),
        ({"token_axes": "1"}, "not a list"),
        ({"token_axes": [1.9]}, "whole numbers"),
        ({"token_axes": [1, 1]}, "a number twice"),
        ({"channels": "8"}, "not a whole number"),
        ({"calls": 0}, "from 1"),
        ({"path": 3}, "not a text"),
        ({"position": "nowhere"}, "not one of front"),
        ({"hooks": [HOOK | {"when": "sometimes"}]}, "not one of input, output"),
        ({"hooks": [HOOK | {"before_dropout": "false"}]}, "not true or false"),
        ({"hooks": [HOOK | {"before": True}]}, "unknown field"),
        ({"mask": {"input": "m", "valid": "nonzero", "rows": 0}}, "not true or false"),
        ({"unfold": {"axis": 0, "before": "1", "after": 1}}, "not a whole number"),
        ({"heads": [[[0, True]]]}, "range of channels"),
    ],
)
def test_a_value_of_another_type_is_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        cbs.Recipe.from_dict(edited(**changes))
    assert caught.value.code == "CB-RECIPE-02"


@pytest.mark.parametrize("changes", [{"optoins": {}}, {"op": ["cb"]}, {"sites": {}}, {"structure": {}}, {"layers": 3}])
def test_so_is_one_of_the_recipe_itself(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        cbs.Recipe.from_dict({**recipe().to_dict(), **changes})
    assert caught.value.code == "CB-RECIPE-02"


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "glu"},
        {"stack": "other"},
        {"calls": 2},
        {"hooks": [HOOK]},
        {"mask": {"input": "src", "valid": "nonzero"}},
        {"heads": [[[0, 4]]]},
    ],
)
def test_a_site_that_the_model_does_not_have_is_refused(changes: dict[str, Any]) -> None:
    found = cbs.inspect(model())
    refuse_other_sites(found, recipe())
    with pytest.raises(SurgeryError) as caught:
        refuse_other_sites(found, cbs.Recipe.from_dict(edited(**changes)))
    assert caught.value.code == "CB-RECIPE-03"


@pytest.mark.parametrize("on", ["module", "program"])
@pytest.mark.parametrize("empty", [recipe().without(0, 1), replace(recipe(), sites=())], ids=["disabled", "no sites"])
def test_a_recipe_that_would_change_nothing_is_refused(empty: cbs.Recipe, on: Any) -> None:
    with pytest.raises(NothingMatched) as caught:
        cbs.insert(model(), empty, on=on)
    assert caught.value.code == "CB-RECIPE-05" and caught.value.exit_code == 1


def test_a_refusal_names_the_blocks_to_leave_out() -> None:
    site = replace(recipe().sites[0], index=2)
    assert occupied(site, "cb", "cb").do.endswith("leave the block out (--exclude 2)")
    assert occupied(site, "cb", "cb", (1, 2, 5)).do.endswith("leave these blocks out (--exclude 1,2,5)")
