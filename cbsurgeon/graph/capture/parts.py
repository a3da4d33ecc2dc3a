"""Capture the largest possible sub-modules of a model that cannot be captured whole, with recorded inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cbsurgeon.errors import CaptureError, pass_out_of_memory
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.capture.batch.axis import Batch, batch_of
from cbsurgeon.graph.capture.refusals import does_not_run
from cbsurgeon.graph.capture.substitution import call_with
from cbsurgeon.graph.capture.writing import copied
from cbsurgeon.graph.program import Program
from cbsurgeon.models.model import Model, Provenance


@dataclass(frozen=True)
class Parts:
    """The captured parts of a model, and the modules that could not be captured.

    Attributes:
        programs: captured sub-modules (``Program.prefix`` is the path), in the order they ran.
        left_out: for each module with parameters whose code is not in any program, the reason.
        runs: path → how often the module runs in one forward pass of the whole model.
    """

    programs: tuple[Program, ...]
    left_out: dict[str, str]
    runs: Mapping[str, int]


@dataclass(frozen=True)
class Recorded:
    """The inputs of one module call."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def tensors(self) -> list[Tensor]:
        """The tensors among them, in the order :class:`Program` names them."""
        return [leaf for leaf in pytree.tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Tensor)]


@dataclass
class _Descent:
    """The state of the search for parts."""

    recorded: Mapping[str, Recorded]
    axes: Mapping[str, tuple[int | None, ...]]
    programs: list[Program] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    seen: set[nn.Module] = field(default_factory=set)


def capture_parts(model: Model) -> Parts:
    """Run the model once, record the inputs of its modules, and capture the largest modules possible.

    Raises:
        CaptureError: the model does not run on its example inputs (CB-CAPTURE-06).
    """
    assert model.module is not None
    runs: Counter[str] = Counter()
    recorded = _record_example(model, runs)
    descent = _Descent(recorded, _batch_axes(model, recorded))
    for name, child in model.module.named_children():
        _descend(child, name, descent)
    order = {path: place for place, path in enumerate(descent.recorded)}
    descent.programs.sort(key=lambda program: order[program.prefix])
    return Parts(tuple(descent.programs), descent.left_out, runs)


def _record_example(model: Model, runs: Counter[str]) -> dict[str, Recorded]:
    assert model.module is not None
    args, kwargs = pytree.tree_map_only(Tensor, with_one_position_masked, example(model))
    try:
        return record(model.module, args, kwargs, runs=runs)
    except Exception as error:
        pass_out_of_memory(error)
        raise does_not_run(error, model.module.parameters(), model.provenance.reference) from error


def _batch_axes(model: Model, recorded: Mapping[str, Recorded]) -> dict[str, tuple[int | None, ...]]:
    """Return, for each module path, the batch axis of each leaf of its inputs.

    This is the first axis whose size changes if the model runs with one more sample. The result is empty if the model
    does not run with one more sample.
    """
    assert model.module is not None
    batch = agreed_batch(model)
    if batch is None or batch.size is None:
        return {}
    more = batch.resized(example(model), batch.size + 1)
    try:
        others = record(model.module, *pytree.tree_map_only(Tensor, with_one_position_masked, more), only=recorded)
    except Exception as error:  # forward() may raise anything for another number of samples; capture then uses axis 0
        pass_out_of_memory(error)
        return {}
    found = {}
    for path, one in recorded.items():
        leaves = pytree.tree_leaves((one.args, dict(one.kwargs)))
        twins = pytree.tree_leaves((others[path].args, dict(others[path].kwargs))) if path in others else []
        if len(leaves) == len(twins):
            found[path] = tuple(differing(*pair) for pair in zip(leaves, twins, strict=True))
    return found


def agreed_batch(model: Model) -> Batch | None:
    """Return the batch of a model's inputs; ``None`` if not every input has it, as with a list of samples of different
    sizes, and none is stated."""
    assert model.module is not None
    batch = batch_of(model.module, example(model), model.batch_axis)
    tensors = [
        axis
        for leaf, axis in zip(pytree.tree_leaves(example(model)), batch.axes, strict=True)
        if isinstance(leaf, Tensor) and leaf.dim()
    ]
    return None if model.batch_axis is None and None in tensors else batch


def differing(first: Any, second: Any) -> int | None:
    """Return the first axis along which two tensors differ in size."""
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return None
    return next((axis for axis, (a, b) in enumerate(zip(first.shape, second.shape, strict=False)) if a != b), None)


def example(model: Model) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the model's example inputs, positional and by keyword."""
    return tuple(model.example_inputs), dict(model.example_kwargs)


def record(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    only: Collection[str] | None = None,
    state: Mapping[str, Tensor] | None = None,
    runs: Counter[str] | None = None,
) -> dict[str, Recorded]:
    """Return the inputs of the first call of every module that runs, by path, in order.

    Args:
        module: the whole model.
        args: its positional inputs.
        kwargs: its keyword inputs.
        only: paths to record; all of them by default.
        state: parameters to run with instead of the model's own.
        runs: if given, a counter of all calls by path.
    """
    recorded: dict[str, Recorded] = {}

    def hook(path: str) -> Any:
        def note(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if runs is not None:
                runs[path] += 1
            if path not in recorded:
                detached = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), (args, kwargs))
                recorded[path] = Recorded(*detached)

        return note

    handles = [
        part.register_forward_pre_hook(hook(path), with_kwargs=True)
        for path, part in module.named_modules()
        if path and (only is None or path in only)
    ]
    args, kwargs = copied(args, kwargs)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a forward() with random numbers (which patches to keep) gets the same each time
            output = call_with(module, state, args, kwargs) if state else module(*args, **kwargs)
            if isinstance(output, Iterator):  # a generator runs only when its values are requested
                for _ in output:
                    pass
    finally:
        for handle in handles:
            handle.remove()
    return recorded


def with_one_position_masked(tensor: Tensor) -> Tensor:
    """Return a mask of ones with one position masked, because models often drop a mask that masks nothing."""
    if tensor.is_floating_point() or tensor.dim() < 2 or tensor.shape[-1] < 2 or not bool((tensor == 1).all()):
        return tensor
    masked = tensor.clone()
    masked[-1, ..., -1] = 0
    return masked


def _descend(module: nn.Module, path: str, descent: _Descent) -> None:
    """Capture a module; if that fails, capture its children."""
    if module in descent.seen or next(module.parameters(), None) is None:
        return
    descent.seen.add(module)
    inputs, reason = descent.recorded.get(path), "its forward() was not called"
    if inputs is not None:
        part = Model(module, inputs.args, Provenance(path), inputs.kwargs, batch_axis=descent.axes.get(path))
        try:
            program = capture(part)
        except CaptureError as error:
            reason = error.why or error.what
        else:
            descent.seen.update(module.modules())
            descent.programs.append(program.under(path))
            return
    children = list(module.named_children())
    if inputs is not None or not children or any(True for _ in module.parameters(recurse=False)):
        descent.left_out[path] = reason
    for name, child in children:
        _descend(child, f"{path}.{name}", descent)
