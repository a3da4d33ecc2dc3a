"""``scriptable``: an edited model without our hooks, which ``torch.jit.script`` cannot compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cbsurgeon.errors import SurgeryError
from cbsurgeon.graph.capture.copying import duplicate, named_parts
from cbsurgeon.graph.occupants import ON_OUTPUT
from cbsurgeon.operators import Operator
from cbsurgeon.operators.context import Context
from cbsurgeon.surgery.module import carrying, keeping, unchecked
from cbsurgeon.surgery.module.attachment import attached

TOKENS = 3
"""Size of every axis but the channel axis in the tensor that an operator is traced on; the trace is valid for any
size."""


class AfterLayer(nn.Module):
    """A layer, then an operator."""

    def __init__(self, layer: nn.Module, operator: nn.Module) -> None:
        super().__init__()
        self.layer, self.operator = layer, operator

    def forward(self, x: Tensor) -> Tensor:
        """The operator of the layer's output."""
        result: Tensor = self.operator(self.layer(x))
        return result


class BeforeLayer(nn.Module):
    """An operator, then a layer."""

    def __init__(self, layer: nn.Module, operator: nn.Module) -> None:
        super().__init__()
        self.layer, self.operator = layer, operator

    def forward(self, x: Tensor) -> Tensor:
        """The layer on the operator's output."""
        result: Tensor = self.layer(self.operator(x))
        return result


def scriptable(module: nn.Module) -> nn.Module:
    """Return a copy of an edited model for ``torch.jit.script``, in which modules instead of hooks call the operators.

    The copy computes the same and is for deployment: the keys of its state dict differ, and it carries no recipe.
    It can be scripted if the original can, and if each layer with an operator takes and returns one tensor.

    Args:
        module: an edited model; unchanged.

    Raises:
        SurgeryError: an operator needs more than its tensor: a padding mask, or the sizes of another one
            (CB-SURGERY-12).

    Example:
        ``torch.jit.script(cbs.scriptable(model)).save("model.ts")``
    """
    result = duplicate(module)
    found = list(attached(result))
    for path, _, name, operator in found:
        _refuse_dependent(operator, f"{path}.{name}")
    parts = dict(named_parts(result))
    for path, host, name, operator in found:
        carrying.drop(host, name)
        above, _, attribute = path.rpartition(".")
        layer = parts[above]._modules[attribute] if path else result  # wrapped already where it carries two operators
        kind = AfterLayer if name == ON_OUTPUT else BeforeLayer
        wrapped = kind(layer, _traced(operator)).train(host.training)  # type: ignore[arg-type]
        if path:
            parts[above]._modules[attribute] = wrapped
        else:
            result = wrapped
    keeping.release(result)
    unchecked.forget(result)
    return result


def _refuse_dependent(operator: Operator, where: str) -> None:
    masked = isinstance(operator, Context) and operator.masked
    if masked or operator.unfolding is not None:
        raise SurgeryError(
            "the operator cannot be scripted",
            code="CB-SURGERY-12",
            where=where,
            why="it needs the padding mask of the forward pass" if masked else "it needs the sizes of another tensor",
            do='torch.export.export(model, inputs), or cbs.export(model, "model.onnx")',
        )


def _traced(operator: Operator) -> Any:
    """The operator as TorchScript. Its result does not depend on any size that tracing makes a constant."""
    site: Any = next(
        site
        for site in (operator.inserted_by or {}).get("sites", ())
        if (tuple(site["token_axes"]), site["channel_axis"]) == (operator.token_axes, operator.channel_axis)
    )
    shape = [TOKENS] * (len(site["token_axes"]) + len(site["batch_axes"]) + 1)
    shape[operator.channel_axis] = operator.channels
    near: Any = next(operator.parameters(), torch.empty(0))
    example = torch.zeros(shape, dtype=near.dtype, device=near.device)
    return torch.jit.trace(operator, (example,), check_trace=False)  # type: ignore[no-untyped-call]
