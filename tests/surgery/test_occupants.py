"""An edited model, inspected again, has the same blocks as before, and shows the operator at each site."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from cbsurgeon.errors import NothingMatched, SurgeryError
from cbsurgeon.graph import Inspection
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.inspection import inspect
from cbsurgeon.graph.occupants import occupants
from cbsurgeon.models.model import Model
from cbsurgeon.report import render_text
from cbsurgeon.surgery import insert_module, insert_program, plan, remove
from cbsurgeon.vocabulary import POSITIONS
from tests.surgery import architectures, arms
from tests.surgery.test_table import FORMS

NAME = "deit"


def reloaded(model: Model) -> Model:
    """Its program, through a .pt2 file."""
    file = io.BytesIO()
    torch.export.save(capture(model).exported, file)
    file.seek(0)
    return Model(None, program=torch.export.load(file))


def bare(found: Inspection) -> list[dict[str, Any]]:
    """The blocks without their operators and node names, which may differ in another capture."""
    blocks = [block.to_dict() for block in (*found.blocks, *found.attention)]
    for site in (site for block in blocks for site in block["sites"].values()):
        del site["occupied"], site["nodes"]
    return blocks


def standing(found: Inspection) -> dict[tuple[int, str], str]:
    return {
        (block.index, position): site.occupied
        for block in found.blocks
        for position, site in block.sites.items()
        if site.occupied is not None
    }


def check(edited: Model, op: str, position: str) -> None:
    """The blocks are the same, and the operator is at block 0 only; a second insertion is refused there and possible
    elsewhere."""
    before, again = architectures.inspection(NAME), inspect(edited)
    assert bare(again) == bare(before)
    assert again.fingerprint == before.fingerprint
    assert standing(again) == {(0, position): op}
    assert not any(site.occupied for block in again.attention for site in block.sites.values())
    for second in ("cb", "se"):
        with pytest.raises(SurgeryError, match="CB-SURGERY-03") as refused:
            plan(again, op=second, layers="all", pos=position)
        assert f"{op} is there" in refused.value.where
        assert ("0.25 x" in refused.value.why) == (op == second == "cb")
        assert "remove" in refused.value.do
        assert "--exclude 0" in refused.value.do
    assert plan(again, layers="all", pos=position, exclude=[0]).indices == (1,)
    free = next(other for other in POSITIONS if other != position)
    assert plan(again, layers="all", pos=free).indices == (0, 1)
    taken_out = remove(edited)
    assert bare(inspect(taken_out)) == bare(before)
    assert not standing(inspect(taken_out))
    with pytest.raises(NothingMatched, match="CB-REMOVE-01"):
        remove(taken_out)


def _name(op: str) -> str:
    return "bent" if op.startswith("mod:") else op


@pytest.mark.parametrize("number", range(len(FORMS)), ids=FORMS)
def test_program(number: int) -> None:
    op, options = list(FORMS.values())[number]
    position = POSITIONS[number % 3]
    recipe = plan(architectures.inspection(NAME), op=op, layers="0", pos=position, **options)
    edited = insert_program(architectures.as_program(NAME), recipe)
    check(edited, _name(op), position)
    check(reloaded(edited), _name(op), position)


FROM_MODULES = ("cb slice", "cb causal", "hybrid", "own")


@pytest.mark.parametrize("form", [pytest.param(f, marks=() if f in FROM_MODULES else pytest.mark.slow) for f in FORMS])
def test_module(form: str) -> None:
    """Captured anew, and through a file of that capture: such a program was never rewritten, and carries no mark."""
    op, options = FORMS[form]
    position = POSITIONS[list(FORMS).index(form) % 3]
    recipe = plan(architectures.inspection(NAME), op=op, layers="0", pos=position, **options)
    model = architectures.model(NAME)
    edited = insert_module(model, recipe)
    program = capture(edited).exported
    check(replace(edited, program=program, module=None), _name(op), position)
    again = reloaded(replace(edited, program=program))
    check(again, _name(op), position)
    plain, restored = architectures.program(NAME), capture(remove(again))
    assert list(restored.exported.state_dict) == list(plain.exported.state_dict)
    assert arms.same(list(restored.run(plain.example).values()), list(plain.run(plain.example).values()))


def test_a_saved_file(tmp_path: Path) -> None:
    """A weights file with its recipe, and a .pt2, read with the public verbs."""
    pytest.importorskip("timm", reason="the architecture is timm's")
    options = {"depth": 2, "img_size": 64}
    model = cbs.load("timm:deit_tiny_patch16_224", options=options)
    before = cbs.inspect(model)
    recipe = cbs.plan(before, op="cb_hybrid", layers="all")
    for path, on in ((tmp_path / "m.safetensors", "module"), (tmp_path / "m.pt2", "program")):
        cbs.save(cbs.insert(model, recipe, on=on), path)
        loaded = cbs.load(str(path), trust=path.suffix == ".pt2")
        found = cbs.inspect(loaded)
        assert found.fingerprint == before.fingerprint
        assert standing(found) == dict.fromkeys([(0, "end"), (1, "end")], "cb_hybrid")
        assert not standing(cbs.inspect(cbs.remove(loaded)))


def test_two_operators_in_one_block() -> None:
    found = architectures.inspection(NAME)
    once = insert_program(architectures.as_program(NAME), plan(found, op="cb", layers="all", pos="front"))
    twice = insert_program(once, plan(inspect(once), op="cb_gate", layers="1", pos="end"))
    assert standing(inspect(twice)) == {(0, "front"): "cb", (1, "front"): "cb", (1, "end"): "cb_gate"}
    assert len(occupants(twice.program)) == 3
    assert str(remove(twice).program.graph) == str(architectures.as_program(NAME).program.graph)


def test_a_block_that_runs_twice() -> None:
    """One operator, two calls; both leave together."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(2):
                x = x + self.fc2(self.fc1(self.norm(x)).relu())
            return x

    torch.manual_seed(0)
    model = Model(Twice().eval(), (torch.randn(2, 5, 8),))
    before = inspect(model)
    recipe = plan(before, op="cb_s", layers="all", tokens="1:")
    for edited in (insert_module(model, recipe), insert_program(model, recipe)):
        found = inspect(edited)
        assert [block.calls for block in found.blocks] == [2]
        assert standing(found) == {(0, "end"): "cb_s"}
        assert len(occupants(capture(edited).exported)) == 2
        assert not standing(inspect(remove(edited)))


def test_the_paper_line_by_hand_is_still_seen() -> None:
    """CB written by hand in the source has no mark of cbsurgeon; it is recognised by its arithmetic."""

    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.fc2(self.fc1(self.norm(x)).relu())
            return x + (0.5 * y + 0.5 * y.mean(dim=1, keepdim=True))

    model = Model(Written().eval(), (torch.randn(2, 5, 8),))
    assert standing(inspect(model)) == {(0, "end"): "cb"}
    with pytest.raises(NothingMatched, match="CB-REMOVE-01"):
        remove(model)


class FunctionalDropout(nn.Module):
    """The dropout of transformers' vision models: a function call behind the down projection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))
        return x + nn.functional.dropout(y, 0.1, self.training)


def test_an_operator_in_front_of_a_dropout_that_is_a_function_call_occupies_end() -> None:
    model = Model(nn.Sequential(FunctionalDropout(), FunctionalDropout()).eval(), (torch.randn(2, 5, 8),))
    for edited in (
        cbs.insert(model, op="cb_s", layers="1"),
        cbs.insert(model, op="cb_s", layers="1", on="program"),
    ):
        found = inspect(edited)
        assert standing(found) == {(1, "end"): "cb_s"}
        with pytest.raises(SurgeryError, match="CB-SURGERY-03"):
            plan(found, op="cb", layers="all")
    assert not standing(inspect(model)) and not inspect(model).operators


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"op": "cb"}, "mlp"),
        ({"op": "cb", "at": "msa"}, "attn"),
        ({"op": "uniform_head", "options": {"heads": [0]}}, "attn.qkv"),
    ],
)
def test_every_operator_is_listed_wherever_it_is(options: dict[str, Any], path: str) -> None:
    edited = cbs.insert(architectures.model(NAME), layers="1", **options)
    (operator,) = inspect(edited).operators
    assert operator[0] == options["op"]
    assert operator[1].startswith(f"blocks.1.{path}.")
    assert f"{options['op']} at 1 site: blocks.1." in " ".join(render_text(inspect(edited).to_dict()).split())
