"""Capture a model for every batch size if ``torch.export`` refuses a symbolic batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from cbsurgeon.errors import CaptureError, pass_out_of_memory
from cbsurgeon.graph.capture.batch import guards, two_sizes
from cbsurgeon.graph.capture.batch.axis import Batch, Inputs
from cbsurgeon.graph.capture.exporting import by_parameter, named, plain_attention, quiet, traced
from cbsurgeon.graph.capture.refusals import fixed
from cbsurgeon.graph.program import Program

MANY = 64
"""Samples more than the example has, at which a model that turns its batch into a number is captured once more."""

LARGEST = 256
"""Largest batch at which a model is captured to see whether a condition on the batch has an effect."""


def for_every_size(module: nn.Module, inputs: Inputs, batch: Batch, shapes: Inputs, refusal: CaptureError) -> Program:
    """Return the program of a model that ``torch.export`` refuses to capture with a symbolic batch.

    Either all conditions on the batch that it cannot prove hold, or captures at two sizes can be merged. The caller
    compares the program with the model at another batch size.

    Raises:
        CaptureError: the error of the symbolic capture, if the model cannot be captured at all; or why the program
            would be wrong for some batch sizes (CB-CAPTURE-04).
    """
    program, conditions = _with_conditions(module, inputs, shapes)
    if program is None or conditions:
        program = _at_two_sizes(module, inputs, batch, shapes, refusal, conditions)
    return program


def _with_conditions(
    module: nn.Module, inputs: Inputs, shapes: Inputs
) -> tuple[Program | None, Sequence[guards.Broken]]:
    """Return the program with the conditions that could not be proved, and those that do not hold for every batch."""
    try:
        exported = traced(module, *inputs, by_parameter(module, *guards.undeclared(shapes)))
    except Exception as error:
        pass_out_of_memory(error)
        return None, ()
    program = named(exported)
    return (program, guards.broken(exported)) if program.batch_axes else (None, ())


def _at_two_sizes(
    module: nn.Module,
    inputs: Inputs,
    batch: Batch,
    shapes: Inputs,
    refusal: CaptureError,
    conditions: Sequence[guards.Broken],
) -> Program:
    """Return the program merged from captures at two fixed batch sizes, confirmed by captures at other sizes.

    These are sizes that break a condition of ``forward()``, or one much larger size if no condition is known. A
    condition may have no effect, such as ``if x.shape[0] >= 64: x = x.contiguous()``.

    Raises:
        CaptureError: the error of the symbolic capture, if the model cannot be captured at a fixed size either; or the
            reason why the captures cannot be merged (CB-CAPTURE-04).
    """
    size = batch.size or 0
    try:
        first, second = (traced(module, *batch.resized(inputs, wanted), None) for wanted in (size, size + 1))
    except Exception as error:  # it cannot be captured at all, and the error of the symbolic capture has the reason
        pass_out_of_memory(error)
        raise refusal from refusal.__cause__
    others = sorted({one.size for one in conditions}) or [size + MANY]
    try:
        with plain_attention(), quiet():
            exported = two_sizes.merged(first, second, (size, size + 1), by_parameter(module, *shapes), inputs)
        for other in others:  # last, because with a loop over samples this is slow
            if other > LARGEST:
                raise two_sizes.Unlike(f"a batch of {other} is too large to be captured")
            third = traced(module, *batch.resized(inputs, other), None)
            two_sizes.confirm(first, second, third, (size, size + 1, other))
        program = named(exported)
        assert_symbolic(program, batch, refusal.where)
    except Exception as error:
        pass_out_of_memory(error)
        own = str(error) if isinstance(error, two_sizes.Unlike) else f"{type(error).__name__}: {error}"[:300]
        raise fixed(refusal.where, conditions[0].sentence if conditions else own) from error
    return program


def assert_symbolic(program: Program, batch: Batch, reference: str) -> None:
    """Refuse a program that lost the batch axis of its inputs (CB-CAPTURE-04)."""
    if program.batch_axes or batch.size is None:
        return
    raise fixed(
        f"{reference}: inputs {', '.join(program.input_names)}",
        "the model fixes the batch size in its code, so the program would be valid for one batch size only",
    )
