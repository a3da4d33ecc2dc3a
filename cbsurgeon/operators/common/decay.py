"""Parameter groups for an optimizer: with and without weight decay."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two parameter groups for an optimizer: matrices with weight decay, vectors without.

    Vectors are biases, the weights of norms, layer scales and the ``scale`` of CB_S, which decay would pull back to the
    identity. Parameters that a model itself exempts (``no_weight_decay()``, timm's convention) get no decay either.
    Frozen parameters are in neither group. timm's optimizer factory groups parameters in the same way.
    ``transformers.Trainer`` decides by name and would decay ``scale``, so pass the optimizer to it:
    ``Trainer(..., optimizers=(optimizer, None))``.

    Args:
        module: the model, after insertion.
        weight_decay: of the first group.

    Returns:
        ``[{"params": ..., "weight_decay": weight_decay}, {"params": ..., "weight_decay": 0.0}]``
    """
    spared: set[str] = set()
    for path, part in module.named_modules():  # below a wrapper such as DDP too
        exempt = getattr(part, "no_weight_decay", None)
        spared |= {f"{path}.{name}" if path else name for name in (exempt() if callable(exempt) else ())}
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (vectors if parameter.dim() <= 1 or name in spared else matrices).append(parameter)
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
