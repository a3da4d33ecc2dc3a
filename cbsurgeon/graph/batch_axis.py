"""Prove the batch axis of the inputs: no sample influences another sample along it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cbsurgeon.errors import CaptureError, CBSurgeonError, pass_out_of_memory
from cbsurgeon.graph.attention import samples
from cbsurgeon.graph.blocks.reader import read
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.capture.batch.axis import Inputs, batch_of, input_names, spelled
from cbsurgeon.graph.capture.parts import agreed_batch, capture_parts, differing, example
from cbsurgeon.graph.capture.writing import copied
from cbsurgeon.graph.occupants import without
from cbsurgeon.graph.program import Program
from cbsurgeon.models.model import Model

MOST_AXES = 3
"""Number of axes of an input that are tried to suggest another batch axis."""


def refuse_mixed_samples(model: Model, programs: Sequence[Program], *, run: bool) -> None:
    """Refuse a model in which samples influence each other along the batch axis, if another axis is the batch.

    Attention along the batch axis is refused even if no other batch axis is proved, unless the user states the axis.
    Other influence between samples (experts with a limited capacity) is only refused if samples do not influence each
    other along another axis.

    Args:
        model: the model, whose ``batch_axis`` may be stated.
        programs: its captured form, or its captured parts.
        run: whether the programs may be run.

    Raises:
        CaptureError: another axis is, or may be, the batch (CB-CAPTURE-08).
    """
    if model.program is not None:
        _refuse_mixed_program(model, programs[0], run=run)
        return
    if not any(program.batch_axes for program in programs):
        return
    attention = _first(programs, _attention_along_batch)
    in_parts = bool(programs[0].prefix)
    why = attention or (_influence(model, programs, in_parts=in_parts) if run else "")
    if not why:
        return
    better = next((text for text, other in _alternatives(model) if _apart(other, run, in_parts=in_parts)), "")
    if not better and (model.batch_axis is not None or not attention):
        return
    axes = _assumed(model) if in_parts else programs[0].batch_axes
    shown = ", ".join(f"axis {axis} of {name}" for name, axis in axes.items())
    what = f"{shown} is assumed to be the batch, but samples influence each other along it"
    if better:
        raise _no_batch(model, what, f"{why}; along another axis, samples are independent", f"--batch-axis {better}")
    either = "--batch-axis N if another axis is the batch; --batch-axis 0 if samples may influence each other"
    raise _no_batch(model, what, why, either)


def _refuse_mixed_program(model: Model, program: Program, *, run: bool) -> None:
    """Refuse a program whose dynamic axis, or whose axis 0 if it has none, holds tokens."""
    assumed = dict(program.batch_axes) or {name: 0 for name, tensor in program.example.items() if tensor.dim()}
    if not assumed:
        return
    attention = _attention_along_batch(program) if program.batch_axes else ""
    why = attention or (samples.influence(program, None if program.batch_axes else assumed) if run else "")
    lead, taken = next(iter(assumed.items()))
    others = (axis for axis in range(min(program.example[lead].dim(), MOST_AXES)) if axis != taken)
    if not why or not (attention or any(_apart_along(program, lead, axis) for axis in others)):
        return
    dynamic = [
        f"axis {axis} of {node.name}"
        for node in program.exported.graph.nodes
        if node.name in program.input_names
        for axis, size in enumerate(node.meta["val"].shape)
        if isinstance(size, torch.SymInt)
    ]
    shown = ", ".join(f"axis {axis} of {name}" for name, axis in assumed.items())
    what = f"{shown} is assumed to be the batch, but samples influence each other along it"
    why = f"{why}; the batch of a program is its dynamic axis, or axis 0 if it has none"
    if len(dynamic) > len(program.batch_axes):
        what = "the program has dynamic axes other than the batch"
        why = f"{', '.join(dynamic)} are dynamic, and tokens are told from samples by the one dynamic axis"
    raise _no_batch(
        model,
        what,
        why,
        "export the model again with the batch as the only dynamic axis: "
        "torch.export.export(module, inputs, dynamic_shapes=...); or give the module instead of the program",
    )


def _apart_along(program: Program, lead: str, axis: int) -> bool:
    """Return whether samples along another axis of the inputs, where there are several, do not influence each other."""
    size = program.example[lead].shape[axis]
    axes = {
        name: axis for name, tensor in program.example.items() if tensor.dim() > axis and tensor.shape[axis] == size
    }
    return size > 1 and samples.apart(program, {lead: axis, **axes})


def _influence(model: Model, programs: Sequence[Program], *, in_parts: bool) -> str:
    """Return a clause about samples that influence each other, in a program or in the code around the parts."""
    return _first(programs, samples.influence) or (_around_parts(model) if in_parts else "")


def _around_parts(model: Model) -> str:
    """Return a clause that names an output of which one sample changes although only another sample was changed, by
    running the model itself; empty if there is none, or if the model does not run with one more sample."""
    assert model.module is not None
    inputs = example(model)
    batch = agreed_batch(model)
    if batch is None or batch.size is None:
        return ""
    try:
        before, more = (_outputs_of(model.module, given) for given in (inputs, batch.resized(inputs, batch.size + 1)))
        for place in (batch.size - 1, 0):
            after = _outputs_of(model.module, batch.changed(inputs, partial(samples.one_changed, place=place)))
            for number, (old, new, longer) in enumerate(zip(before, after, more, strict=True)):
                axis = differing(old, longer)
                if axis is not None and samples.others_change(old, new, (axis,), batch.size, place):
                    return f"tensor {number} of the output changes for one sample with the values of another"
    except Exception as error:  # forward() may raise anything for other values or another number of samples
        pass_out_of_memory(error)
    return ""


def _outputs_of(module: nn.Module, inputs: Inputs) -> list[Tensor]:
    args, kwargs = copied(*inputs)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [leaf for leaf in pytree.tree_leaves(module(*args, **kwargs)) if isinstance(leaf, Tensor)]


def _first(programs: Sequence[Program], ask: Callable[[Program], str]) -> str:
    """Return the first answer about some programs that is not empty, with the path of the part that it is about."""
    for program in programs:
        answer = ask(program) if program.batch_axes else ""
        if answer:
            return f"in {program.prefix}, {answer}" if program.prefix else answer
    return ""


def _assumed(model: Model) -> dict[str, int]:
    """Return the batch axis of each input of a model that has one."""
    assert model.module is not None
    inputs: Inputs = (tuple(model.example_inputs), dict(model.example_kwargs))
    axes = batch_of(model.module, inputs, model.batch_axis).axes
    named = zip(input_names(model.module, inputs), axes, strict=True)
    return {name: axis for name, axis in named if axis is not None}


def refuse_other_axis(model: Model, failure: CaptureError) -> None:
    """Refuse a model that cannot be captured because another axis is the batch.

    Args:
        model: the model.
        failure: why it could not be captured.

    Raises:
        CaptureError: the model can be captured with another batch axis, along which samples are independent
            (CB-CAPTURE-08).
    """
    if model.module is None or any(parameter.is_meta for parameter in model.module.parameters()):
        return
    better = next((text for text, other in _alternatives(model) if _apart(other, True)), "")
    if better:
        what = "capture failed because the size of the assumed batch axis cannot change"
        why = "along another axis, the number of samples can change, and samples do not influence each other"
        raise _no_batch(model, what, why, f"--batch-axis {better}") from failure


def _no_batch(model: Model, what: str, why: str, do: str) -> CaptureError:
    return CaptureError(what, code="CB-CAPTURE-08", where=model.provenance.reference, why=why, do=do)


def _attention_along_batch(program: Program) -> str:
    bare, _ = without(program)
    return samples.attention_along_batch(read(bare).flow)


def _apart(model: Model, run: bool, *, in_parts: bool = False) -> bool:
    """Return whether samples do not influence each other along the stated batch axis of a model."""
    try:
        programs = capture_parts(model).programs if in_parts else (capture(model, check=False),)
    except CBSurgeonError:
        return False
    batched = bool(programs) and all(program.batch_axes for program in programs)
    if not batched or _first(programs, _attention_along_batch):
        return False
    return not (run and _influence(model, programs, in_parts=in_parts))


def _alternatives(model: Model) -> Iterator[tuple[str, Model]]:
    """Yield other possible batch axes: the value for ``--batch-axis``, and the model with these axes stated."""
    assert model.module is not None
    inputs: Inputs = (tuple(model.example_inputs), dict(model.example_kwargs))
    leaves, names = pytree.tree_leaves(inputs), input_names(model.module, inputs)
    taken = batch_of(model.module, inputs, model.batch_axis).axes
    lead = next((leaf for leaf, axis in zip(leaves, taken, strict=True) if axis is not None), None)
    if lead is None:
        return
    for axis in range(min(lead.dim(), MOST_AXES)):
        size = lead.shape[axis]
        axes = tuple(axis if leaf is lead else _axis_of_size(leaf, size, axis) for leaf in leaves)
        if axes != taken and size > 1:
            yield spelled(names, axes), replace(model, batch_axis=axes)


def _axis_of_size(leaf: object, size: int, preferred: int) -> int | None:
    if not isinstance(leaf, Tensor):
        return None
    if preferred < leaf.dim() and leaf.shape[preferred] == size:
        return preferred
    return next((axis for axis, one in enumerate(leaf.shape) if one == size), None)
