"""Inputs under a runtime's own names, and the outputs of two runtimes brought together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from cbsurgeon.errors import CheckFailed


def renamed(tensors: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Inputs under a model's own names: as they are where they agree, in order where they are as many."""
    if set(names) == set(tensors) or len(names) != len(tensors):
        return dict(tensors)
    return dict(zip(names, tensors.values(), strict=True))


def match_outputs(left: Mapping[str, Tensor], right: Mapping[str, Tensor], a: str, b: str) -> dict[str, Tensor]:
    """The second side's outputs under the first side's names.

    Raises:
        CheckFailed: other numbers of outputs (CB-VERIFY-02), or another shape (CB-VERIFY-03).
    """
    if len(left) != len(right):
        raise CheckFailed(
            "the two models have different outputs",
            code="CB-VERIFY-02",
            where=f"{a} and {b}",
            why=f"{', '.join(left)} against {', '.join(right)}",
            do="compare a model with its own export",
        )
    matched = dict(right) if set(left) == set(right) else dict(zip(left, right.values(), strict=True))
    for name, tensor in left.items():
        if tensor.shape != matched[name].shape:
            raise CheckFailed(
                "an output has another shape",
                code="CB-VERIFY-03",
                where=f"output {name}",
                why=f"{list(tensor.shape)} in {a}, {list(matched[name].shape)} in {b}",
                do="compare a model with its own export",
            )
    return matched
