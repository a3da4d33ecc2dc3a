"""Every attention of a graph is found, with its heads, positions, kind and tokens, and nothing else is found."""

from __future__ import annotations

import pytest

import cbsurgeon as cbs
from cbsurgeon.report.text import render_text
from tests.attention.networks import CASES

NO_MAP = {"linear-attention", "channel-attention", "projected-weights", "map-undecided"}


@pytest.mark.parametrize("name", CASES)
def test_attentions_are_those_that_were_written(name: str) -> None:
    case = CASES[name]
    found = cbs.inspect(cbs.Model(case.module(), case.inputs()))
    facts = [one.to_dict() for one in found.attentions]
    assert len(facts) == len(case.truth)
    for fact, expected in zip(facts, case.truth, strict=True):
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in expected.items()}
        assert {key: fact[key] for key in plain} == plain
    reasons = {one.reason for one in found.rejected}
    assert reasons & NO_MAP == set(case.rejected)


def test_positions_that_are_not_learned_are_spatial() -> None:
    case = CASES["class-token"]
    found = cbs.inspect(cbs.Model(case.module(), case.inputs()))
    assert found.attentions[1].spatial == tuple(range(1, 10))
    assert [one.path for one in found.attentions] == ["blocks.0", "blocks.1"]
    assert {one.stack for one in found.attentions} == {"blocks"}


def test_inspect_prints_neighbours_of_one_form_in_one_row() -> None:
    case = CASES["class-token"]
    text = render_text(cbs.inspect(cbs.Model(case.module(), case.inputs())).to_dict())
    (row,) = [line for line in text.splitlines() if "blocks.0 to blocks.1" in line]
    assert row.split() == "0-1 blocks.0 to blocks.1 self 4 12 12 3x3 + class token + 2 learned".split()
