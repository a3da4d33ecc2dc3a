"""The rewrite as a pass of a ``PassManager``."""

from __future__ import annotations

import pytest
import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.fx.passes.infra.pass_manager import PassManager

from cbsurgeon.errors import SurgeryError
from cbsurgeon.graph.capture.execution import flat_inputs
from cbsurgeon.graph.program import wrap
from cbsurgeon.surgery import InsertPass, plan
from cbsurgeon.surgery.program import rewrite
from tests.surgery import architectures

NAME = "deit"


class Renamed(PassBase):
    """Somebody else's pass: counts nodes into the graph module's meta."""

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        graph_module.meta["nodes"] = len(graph_module.graph.nodes)
        return PassResult(graph_module, True)


@pytest.mark.parametrize("op", ["cb", "cb_s", "cb_retrofit"])
def test_in_a_pass_manager(op: str) -> None:
    program, recipe = architectures.program(NAME), plan(architectures.inspection(NAME), op=op)
    before = str(program.exported.graph)
    insertion = InsertPass(program.exported, recipe)
    result = PassManager([insertion, Renamed()])(program.exported.graph_module)
    direct = rewrite(program, recipe)
    assert result.modified
    assert str(result.graph_module.graph) == str(direct.exported.graph)
    assert result.graph_module.meta["nodes"] > len(program.exported.graph.nodes)
    assert str(program.exported.graph) == before
    inputs = flat_inputs(wrap(insertion.exported), program.example)
    with torch.no_grad():
        (out,) = fx.Interpreter(result.graph_module).run(*inputs)
    assert torch.equal(out, next(iter(direct.run(program.example).values())))


def test_nothing_enabled_changes_nothing() -> None:
    program = architectures.program(NAME)
    recipe = plan(architectures.inspection(NAME), layers="all").without(0, 1)
    result = InsertPass(program.exported, recipe)(program.exported.graph_module)
    assert not result.modified
    assert result.graph_module is program.exported.graph_module


def test_another_graph_is_refused() -> None:
    recipe = plan(architectures.inspection(NAME))
    other = architectures.program("hf vit").exported.graph_module
    with pytest.raises(SurgeryError, match="CB-SURGERY-07"):
        InsertPass(architectures.program(NAME).exported, recipe)(other)
