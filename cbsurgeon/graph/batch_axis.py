"""Prove the batch axis of the inputs: no sample influences another sample along it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor
from torch.utils import _pytree as pytree

from cbsurgeon.errors import CaptureError, CBSurgeonError
from cbsurgeon.graph.attention import samples
from cbsurgeon.graph.blocks.reader import read
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.capture.batch.axis import Inputs, batch_of, input_names, spelled
from cbsurgeon.graph.occupants import without
from cbsurgeon.graph.program import Program
from cbsurgeon.models.model import Model

MOST_AXES = 3
"""Number of axes of an input that are tried to suggest another batch axis."""


def refuse_mixed_samples(model: Model, program: Program, *, run: bool) -> None:
    """Refuse a program in which samples influence each other along the batch axis, if another axis is the batch.

    Attention along the batch axis is refused even if no other batch axis is proved, unless the user states the axis.
    Other influence between samples (experts with a limited capacity) is only refused if samples do not influence each
    other along another axis.

    Args:
        model: the model, whose ``batch_axis`` may be stated.
        program: its captured form.
        run: whether the program may be run.

    Raises:
        CaptureError: another axis is, or may be, the batch (CB-CAPTURE-08).
    """
    if model.program is not None or not program.batch_axes:
        return
    attention = _attention_along_batch(program)
    why = attention or (samples.influence(program) if run else "")
    if not why:
        return
    better = next((text for text, other in _alternatives(model) if _apart(other, run)), "")
    if not better and (model.batch_axis is not None or not attention):
        return
    axes = ", ".join(f"axis {axis} of {name}" for name, axis in program.batch_axes.items())
    what = f"{axes} is assumed to be the batch, but samples influence each other along it"
    if better:
        raise _no_batch(model, what, f"{why}; along another axis, samples are independent", f"--batch-axis {better}")
    either = "--batch-axis N if another axis is the batch; --batch-axis 0 if samples may influence each other"
    raise _no_batch(model, what, why, either)


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


def _apart(model: Model, run: bool) -> bool:
    """Return whether samples do not influence each other along the stated batch axis of a model."""
    try:
        program = capture(model, check=False)
    except CBSurgeonError:
        return False
    return bool(program.batch_axes) and not _attention_along_batch(program) and not (run and samples.influence(program))


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
