"""One call of ``torch.export`` (non-strict, without decompositions and log output)."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from cbsurgeon.graph.capture.naming import output_names
from cbsurgeon.graph.capture.regions import inline
from cbsurgeon.graph.capture.substitution import own_buffers
from cbsurgeon.graph.capture.writing import spare_inputs
from cbsurgeon.graph.program import Program, wrap


def traced(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: dict[str, Any] | None
) -> ExportedProgram:
    """Return the program of ``torch.export`` (non-strict, without log output), with the regions of its graph inlined.

    A program does not write into its inputs, also if the model does. The module keeps its own buffers, also if it
    registers a computed one in ``forward``.
    """
    with plain_attention(), quiet(), torch.no_grad(), own_buffers(module):
        exported = torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    inline(exported)
    spare_inputs(exported)
    return exported


def named(exported: ExportedProgram) -> Program:
    """Return the program with the output names of its model."""
    return wrap(exported, output_names(_outputs(exported)))


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


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch from logging whole graphs when a capture fails; the error has the relevant lines."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Turn off the fused inference path of ``torch.nn.TransformerEncoderLayer``, whose graph does not show the MLP."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
