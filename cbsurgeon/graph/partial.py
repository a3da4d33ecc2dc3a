"""Models that cannot be captured whole: the largest sub-modules that can be, with inputs recorded in one eager run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cbsurgeon.errors import CaptureError
from cbsurgeon.graph.capturing import capture
from cbsurgeon.graph.program import Program
from cbsurgeon.models.model import Model, Provenance


@dataclass(frozen=True)
class Parts:
    """What could be captured of a model, and what could not.

    Attributes:
        programs: captured sub-modules (``Program.prefix`` is the path), in the order they ran.
        left_out: path of a module with parameters that is in no program → why.
    """

    programs: tuple[Program, ...]
    left_out: dict[str, str]


@dataclass(frozen=True)
class Recorded:
    """The inputs of one module call."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def capture_parts(model: Model) -> Parts:
    """Run the model once, note what its modules are given, and capture the largest ones possible.

    Raises:
        CaptureError: the model does not even run eagerly on its example inputs (CB-CAPTURE-06).
    """
    assert model.module is not None
    recorded = _record(model)
    programs: list[Program] = []
    left_out: dict[str, str] = {}
    for name, child in model.module.named_children():
        _descend(child, name, recorded, programs, left_out)
    order = {path: place for place, path in enumerate(recorded)}
    programs.sort(key=lambda program: order[program.prefix])
    return Parts(tuple(programs), left_out)


def _record(model: Model) -> dict[str, Recorded]:
    """Inputs of the first call of every module that runs, by path, in order."""
    module = model.module
    assert module is not None
    recorded: dict[str, Recorded] = {}

    def hook(path: str) -> Any:
        def note(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if path not in recorded:
                copied = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), (args, kwargs))
                recorded[path] = Recorded(*copied)

        return note

    handles = [
        part.register_forward_pre_hook(hook(path), with_kwargs=True) for path, part in module.named_modules() if path
    ]
    try:
        with torch.no_grad():
            args, kwargs = pytree.tree_map_only(
                Tensor, _with_something_hidden, (model.example_inputs, dict(model.example_kwargs))
            )
            module(*args, **kwargs)
    except Exception as error:
        raise CaptureError(
            "the model does not run on its example inputs",
            code="CB-CAPTURE-06",
            where=model.provenance.reference,
            why=f"{type(error).__name__}: {str(error)[:200]}",
            do="give inputs it takes: --input 3x224x224 or --inputs file.npz",
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return recorded


def _with_something_hidden(tensor: Tensor) -> Tensor:
    """A mask of ones is often dropped on the way because it hides nothing; make it hide the last position once."""
    if tensor.is_floating_point() or tensor.dim() < 2 or tensor.shape[-1] < 2 or not bool((tensor == 1).all()):
        return tensor
    masked = tensor.clone()
    masked[-1, ..., -1] = 0
    return masked


def _descend(
    module: nn.Module,
    path: str,
    recorded: Mapping[str, Recorded],
    programs: list[Program],
    left_out: dict[str, str],
) -> None:
    """Capture a module, or what is inside it."""
    if next(module.parameters(), None) is None:
        return
    inputs, reason = recorded.get(path), "it did not run"
    if inputs is not None:
        part = Model(module, inputs.args, Provenance(path), inputs.kwargs)
        try:
            program = capture(part)
        except CaptureError as error:
            reason = error.why or error.what
        else:
            programs.append(program.under(path))
            return
    children = list(module.named_children())
    if not children or any(True for _ in module.parameters(recurse=False)):
        left_out[path] = reason
    for name, child in children:
        _descend(child, f"{path}.{name}", recorded, programs, left_out)
