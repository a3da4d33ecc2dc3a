"""Capture a whole model with ``torch.export`` and a symbolic batch, and compare the program with the eager model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from cbsurgeon.errors import CaptureError, pass_out_of_memory
from cbsurgeon.graph import aten
from cbsurgeon.graph.capture.batch.axis import Batch, Inputs, batch_of
from cbsurgeon.graph.capture.batch.every_size import assert_symbolic, for_every_size
from cbsurgeon.graph.capture.copying import without_compiled
from cbsurgeon.graph.capture.exporting import by_parameter, named, plain_attention, traced
from cbsurgeon.graph.capture.refusals import (
    cannot_follow,
    differs,
    does_not_run,
    one_type,
    refuse_lost_operators,
)
from cbsurgeon.graph.capture.writing import copied
from cbsurgeon.graph.program import Program, parts, wrap
from cbsurgeon.models.model import Model

# The captured program runs the same ATen kernels as the eager model. Only the grouping of a few reductions differs
# (fused attention paths). In float32, the difference is below this fraction of the output's largest magnitude.
CAPTURE_RTOL = 1e-4


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
        assert_symbolic(program, batch, reference)
    except Exception as error:
        pass_out_of_memory(error)
        refusal = error if isinstance(error, CaptureError) else cannot_follow(error, reference, module)
        if batch.size is None:
            raise refusal from error
        refusal.__cause__ = error if error is not refusal else None
        program = for_every_size(module, inputs, batch, shapes, refusal)
        if not any(parameter.is_meta for parameter in module.parameters()):
            args, kwargs = batch.resized(inputs, batch.size + 3)
            compare(module, program, args, kwargs, reference, same_draws=True)
    return program


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
    with plain_attention(), torch.no_grad(), torch.random.fork_rng(devices=[]):
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
