"""Parts of a graph compute the same values as the whole graph, with operators that write into tensors and draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.capture.execution import Execution, flat_inputs
from cbsurgeon.graph.program import Program
from cbsurgeon.models import Model


class Writing(nn.Module):
    """Writes into a tensor through a view of it, before and after other operators read it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        before = x.exp()
        head = x[:, :2].view(len(x), 2)
        head.mul_(3.0)
        after = x.sin()
        x[:, 2:].add_(after[:, 2:])
        return before + after + x.tanh()


class Branches(nn.Module):
    """Two branches that share nothing but the input."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x).relu() + nn.functional.gelu(self.right(x)).chunk(2, -1)[0].repeat(1, 2)


class Recorder(fx.Interpreter):
    """Runs the whole graph and keeps a copy of every tensor as it was computed."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.kept: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.kept[n.name] = result.clone()
        return result


def captured(make: type[nn.Module]) -> Program:
    torch.manual_seed(0)
    return capture(Model(make().eval(), (torch.randn(3, 6),)))


@pytest.mark.parametrize("make", [Writing, Branches])
@torch.no_grad()
def test_every_value_is_that_of_the_whole_run(make: type[nn.Module]) -> None:
    program = captured(make)
    recorder = Recorder(program.exported.graph_module)
    recorder.run(
        *(value.clone() if isinstance(value, Tensor) else value for value in flat_inputs(program, program.example))
    )
    execution = Execution(program)
    assert len(recorder.kept) > 6
    for name, expected in recorder.kept.items():
        assert torch.equal(execution.values(program.example, [name])[name], expected), name


class InPlace(nn.Module):
    """Writes into its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2.0).relu()


def test_neither_inputs_nor_replaced_values_are_written_into() -> None:
    program = captured(InPlace)
    names = [node.name for node in program.exported.graph_module.graph.nodes if "relu" in node.name]
    x, given = torch.ones(3, 6), torch.ones(3, 6)
    assert torch.equal(Execution(program).values({"x": x}, names)[names[0]], torch.full((3, 6), 2.0))
    assert torch.equal(Execution(program).values({"x": x}, names, {"x": given})[names[0]], torch.full((3, 6), 2.0))
    assert torch.equal(x, torch.ones(3, 6)) and torch.equal(given, torch.ones(3, 6))


def test_a_replaced_value_is_read_downstream_and_nothing_upstream_of_it_runs() -> None:
    program = captured(Branches)
    graph = program.exported.graph_module.graph
    relu = next(node for node in graph.nodes if "relu" in node.name)
    add = next(node for node in graph.nodes if node.name.startswith("add"))
    right = next(node for node in graph.nodes if "gelu" in node.name)
    execution = Execution(program)
    ran: list[str] = []
    run_node = execution._interpreter.run_node
    execution._interpreter.run_node = lambda node: (ran.append(node.name), run_node(node))[1]  # type: ignore[method-assign]
    given = torch.full((3, 6), 7.0)
    found = execution.values(program.example, [add.name, right.name], {relu.name: given})
    assert torch.equal(found[add.name], given + found[right.name].chunk(2, -1)[0].repeat(1, 2))
    assert add.name in ran and not any(name == "linear" for name in ran), ran


def test_gradients_flow_from_a_replaced_value() -> None:
    program = captured(Branches)
    relu = next(node for node in program.exported.graph_module.graph.nodes if "relu" in node.name)
    add = next(node for node in program.exported.graph_module.graph.nodes if node.name.startswith("add"))
    given = torch.ones(3, 6, requires_grad=True)
    found = Execution(program).values(program.example, [add.name], {relu.name: given}, grad=True)[add.name]
    (slope,) = torch.autograd.grad(found.sum(), given)
    assert torch.equal(slope, torch.ones(3, 6))


def test_an_unknown_name() -> None:
    with pytest.raises(KeyError):
        Execution(captured(Branches)).values({}, ["nothing"])
