"""Capture a whole model with ``torch.export`` and a symbolic batch, and compare the program with the eager model."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from cbsurgeon.errors import CaptureError, pass_out_of_memory
from cbsurgeon.graph import aten
from cbsurgeon.graph.capture.batch import guards, two_sizes
from cbsurgeon.graph.capture.batch.axis import Batch, Inputs, batch_of
from cbsurgeon.graph.capture.copying import without_compiled
from cbsurgeon.graph.capture.naming import output_names
from cbsurgeon.graph.capture.refusals import (
    cannot_follow,
    differs,
    does_not_run,
    fixed,
    one_type,
    refuse_lost_operators,
)
from cbsurgeon.graph.capture.regions import inline
from cbsurgeon.graph.capture.substitution import own_buffers
from cbsurgeon.graph.capture.writing import copied, spare_inputs
from cbsurgeon.graph.program import Program, parts, wrap
from cbsurgeon.models.model import Model

# The captured program runs the same ATen kernels as the eager model. Only the grouping of a few reductions differs
# (fused attention paths). In float32, the difference is below this fraction of the output's largest magnitude.
CAPTURE_RTOL = 1e-4

MANY = 64
"""Samples more than the example has, at which a model that turns its batch into a number is captured once more."""

LARGEST = 256
"""Largest batch at which a model is captured to see whether a condition on the batch has an effect."""


def capture(model: Model, *, check: bool = True, same_draws: bool = False) -> Program:
    """Capture a model with ``torch.export`` (non-strict, undecomposed) and a symbolic batch axis.

    Args:
        model: a module with example inputs, or a model that is a program already.
        check: run model and program and compare their outputs. If false, they are only compared if the graph shows that
            two calls may differ, which is enough for an inspection. They are never compared without weights.
        same_draws: give model and program the same random numbers, so that a forward() with random numbers passes.

    Raises:
        CaptureError: no example inputs (CB-CAPTURE-01), training mode (02), export failed (03), the batch became a
            constant (04), or the program does not compute what the module does (05).
        SurgeryError: a layer was replaced after an insertion, and its operator is gone (CB-SURGERY-11).
    """
    if model.program is not None:
        return wrap(model.program)
    model = without_compiled(model)
    module = model.module
    if module is None or not (model.example_inputs or model.example_kwargs):
        raise CaptureError(
            "the model has no example inputs",
            code="CB-CAPTURE-01",
            where=model.provenance.reference,
            why="torch.export runs the model once on them",
            do="cbs.Model(module, (x,)), or --input 3x224x224, or --inputs file.npz",
        )
    refuse_training(module, model.provenance.reference)
    refuse_lost_operators(module, model.recipes, model.provenance.reference)
    inputs, batch = two_samples(module, model)
    args, kwargs = inputs
    program = export(module, inputs, batch, model.provenance.reference)
    held = not any(parameter.is_meta for parameter in module.parameters())
    if held and (check or varies(program.exported)):
        compare(module, program, args, kwargs, model.provenance.reference, same_draws=same_draws)
    return program


def refuse_training(module: nn.Module, reference: str) -> None:
    """Refuse a module if any part of it is in training mode: dropout and batch statistics would be in the graph."""
    parts = [name for name, part in module.named_modules() if part.training]
    if not parts:
        return
    shown = ", ".join(name or "the model itself" for name in parts[:3])
    raise CaptureError(
        "the model is in training mode",
        code="CB-CAPTURE-02",
        where=f"{reference}: {shown}" + (f" and {len(parts) - 3} more" if len(parts) > 3 else ""),
        why="dropout and batch statistics would be fixed into the graph as they are in training",
        do="call model.eval() first",
    )


def two_samples(module: nn.Module, model: Model) -> tuple[Inputs, Batch]:
    """Return the example inputs with at least two samples, and their batch: torch.export treats a size of one as a
    constant."""
    inputs = (tuple(model.example_inputs), dict(model.example_kwargs))
    batch = batch_of(module, inputs, model.batch_axis)
    return (batch.resized(inputs, 2), replace(batch, size=2)) if batch.size == 1 else (inputs, batch)


def export(module: nn.Module, inputs: Inputs, batch: Batch, reference: str) -> Program:
    """``torch.export`` with the batch axes of the inputs declared as the batch, asserted afterwards."""
    shapes = batch.dynamic(inputs)
    try:
        exported = traced(module, *inputs, by_parameter(module, *shapes))
        program = named(exported)
        _assert_symbolic(program, batch, reference)
    except Exception as error:
        pass_out_of_memory(error)
        refusal = error if isinstance(error, CaptureError) else cannot_follow(error, reference, module)
        if batch.size is None:
            raise refusal from error
        refusal.__cause__ = error if error is not refusal else None
        return _for_every_size(module, inputs, batch, shapes, refusal)
    return program


def _for_every_size(module: nn.Module, inputs: Inputs, batch: Batch, shapes: Inputs, refusal: CaptureError) -> Program:
    """Return the program of a model that ``torch.export`` refuses to capture with a symbolic batch.

    Either all conditions on the batch that it cannot prove hold, or captures at two sizes can be merged. The program is
    compared with the model at another batch size.

    Raises:
        CaptureError: the error of the symbolic capture, if the model cannot be captured at all; or why the program
            would be wrong for some batch sizes (CB-CAPTURE-04).
    """
    program, conditions = _with_conditions(module, inputs, shapes)
    if program is None or conditions:
        program = _at_two_sizes(module, inputs, batch, shapes, refusal, conditions)
    if not any(parameter.is_meta for parameter in module.parameters()):
        args, kwargs = batch.resized(inputs, (batch.size or 0) + 3)
        compare(module, program, args, kwargs, refusal.where, same_draws=True)
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


def traced(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: dict[str, Any] | None
) -> ExportedProgram:
    """Return the program of ``torch.export`` (non-strict, without log output), with the regions of its graph inlined.

    A program does not write into its inputs, also if the model does. The module keeps its own buffers, also if it
    registers a computed one in ``forward``.
    """
    with _plain_attention(), _quiet(), torch.no_grad(), own_buffers(module):
        exported = torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    inline(exported)
    spare_inputs(exported)
    return exported


def named(exported: ExportedProgram) -> Program:
    """Return the program with the output names of its model."""
    return wrap(exported, output_names(_outputs(exported)))


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
        with _plain_attention(), _quiet():
            exported = two_sizes.merged(first, second, (size, size + 1), by_parameter(module, *shapes), inputs)
        for other in others:  # last, because with a loop over samples this is slow
            if other > LARGEST:
                raise two_sizes.Unlike(f"a batch of {other} is too large to be captured")
            third = traced(module, *batch.resized(inputs, other), None)
            two_sizes.confirm(first, second, third, (size, size + 1, other))
        program = named(exported)
        _assert_symbolic(program, batch, refusal.where)
    except Exception as error:
        pass_out_of_memory(error)
        known = conditions[0].sentence if conditions else f"{type(error).__name__}: {error}"[:300]
        raise fixed(refusal.where, known) from error
    return program


def by_parameter(module: nn.Module, arg_shapes: tuple[Any, ...], kwarg_shapes: dict[str, Any]) -> dict[str, Any]:
    """Dynamic shapes by parameter of forward(), as torch.export takes them: a tuple for ``*args``, a dictionary for
    ``**kwargs``."""
    return dict(inspect.signature(module.forward).bind(*arg_shapes, **kwarg_shapes).arguments)


def _outputs(exported: ExportedProgram) -> Any:
    """What the model returns, with fake tensors instead of tensors."""
    values = {node.name: node.meta.get("val") for node in exported.graph.nodes}
    leaves = [
        values[spec.arg.name] if isinstance(spec.arg, TensorArgument) else None
        for spec in exported.graph_signature.output_specs
        if spec.kind is OutputKind.USER_OUTPUT
    ]
    return pytree.tree_unflatten(leaves, exported.call_spec.out_spec)


def varies(exported: ExportedProgram) -> bool:
    """Whether two calls of a program may differ: it draws random numbers, or writes into its state."""
    signature = exported.graph_signature
    if signature.buffers_to_mutate:
        return True
    state = {
        *signature.inputs_to_parameters,
        *signature.inputs_to_buffers,
        *signature.inputs_to_lifted_tensor_constants,
    }
    parts = [part for part in exported.graph_module.modules() if isinstance(part, fx.GraphModule)]
    return any(aten.draws(node) or _writes(node, state) for part in parts for node in part.graph.nodes)


def _writes(node: fx.Node, state: set[str]) -> bool:
    """Whether a node writes in place into the program's state, followed through first operands."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
        return False
    while node.op == "call_function" and node.args and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node.name in state


def _assert_symbolic(program: Program, batch: Batch, reference: str) -> None:
    if program.batch_axes or batch.size is None:
        return
    raise fixed(
        f"{reference}: inputs {', '.join(program.input_names)}",
        "the model fixes the batch size in its code, so the program would be valid for one batch size only",
    )


def compare(
    module: nn.Module,
    program: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    reference: str,
    *,
    same_draws: bool = False,
) -> None:
    """Refuse a program with other outputs than the module; with ``same_draws``, both get the same random numbers."""
    with _plain_attention(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        own_args, own_kwargs = copied(args, kwargs)
        try:
            result = module(*own_args, **own_kwargs)
        except RuntimeError as error:
            pass_out_of_memory(error)
            if one_type(error, module.parameters()):
                raise does_not_run(error, module.parameters(), reference) from error
            raise
        eager = program.name_outputs(result)
        if same_draws:
            torch.manual_seed(0)
        own_args, own_kwargs = copied(args, kwargs)
        captured = program.name_outputs(program.module()(*own_args, **own_kwargs))
    for name, expected in eager.items():
        got = captured[name]
        if expected.shape != got.shape or expected.dtype != got.dtype:
            raise differs(reference, name, f"{list(got.shape)} {got.dtype} instead of {list(expected.shape)}")
        if not (expected.is_floating_point() or expected.is_complex()):
            continue
        gap = (parts(expected) - parts(got)).abs().nan_to_num().max().item() if expected.numel() else 0.0
        scale = parts(expected).abs().nan_to_num().max().item() if expected.numel() else 0.0
        if gap > CAPTURE_RTOL * scale or not torch.equal(expected.isnan(), got.isnan()):
            raise differs(reference, name, f"max |Δ| {gap:.2e} on values up to {scale:.2e}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging whole graphs when a capture fails; the error has the relevant lines."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Turn off the fused inference path of ``torch.nn.TransformerEncoderLayer``, whose graph does not show the MLP."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
