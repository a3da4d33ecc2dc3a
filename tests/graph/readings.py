"""One inspection and one capture per network, shared by all tests of a session, and the tensors of the nodes."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from cbsurgeon.graph import Inspection, Program, inspect_program
from cbsurgeon.graph.capture import capture
from tests.graph.networks import CASES


@cache
def inspection(name: str) -> Inspection:
    """What the finder says about a network; ``inspect(model)`` is this and the capture, tested on a few."""
    return inspect_program(program(name), name)


@cache
def program(name: str) -> Program:
    """The network's graph."""
    return capture(CASES[name].model())


@cache
def node_values(name: str) -> dict[str, Any]:
    """Value of every node of the network's graph on its example inputs."""
    return run_recording(program(name))


def run_recording(captured: Program) -> dict[str, Any]:
    """Run a program node by node and keep what each one returned, by node name."""
    exported, recorded = captured.exported, {}
    examples = iter(pytree.tree_leaves((exported.example_inputs[0], dict(exported.example_inputs[1]))))
    held = {**exported.state_dict, **exported.constants}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            # Operators that write in place would change what was recorded before them.
            recorded[n.name] = value.clone() if isinstance(value, Tensor) else value
            return value

    specs = exported.graph_signature.input_specs
    inputs = [next(examples) if spec.kind is InputKind.USER_INPUT else held[spec.target] for spec in specs]
    with torch.no_grad():
        Recorder(exported.graph_module).run(*inputs)
    return recorded


@cache
def module_values(name: str) -> dict[str, dict[str, list[Tensor]]]:
    """First input and output of every sub-module in one eager run: path → ``input``/``output`` → one per call."""
    case = CASES[name]
    module, recorded = case.module(), {}

    def keep(path: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            calls = recorded.setdefault(path, {"input": [], "output": []})
            calls["input"].append(args[0] if args else None)
            calls["output"].append(output.clone() if isinstance(output, Tensor) else output)

        return hook

    for path, part in module.named_modules():
        part.register_forward_hook(keep(path))
    with torch.no_grad():
        module(*case.arguments(), **case.kwargs())
    return recorded
