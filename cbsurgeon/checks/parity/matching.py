"""Matching the inputs and outputs of two runtimes that name them differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from cbsurgeon.checks.parity.difference import kind
from cbsurgeon.errors import CheckFailed


def renamed(tensors: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Rename inputs to a model's own names, by order; unchanged if the names agree or the numbers differ."""
    if set(names) == set(tensors) or len(names) != len(tensors):
        return dict(tensors)
    return dict(zip(names, tensors.values(), strict=True))


def match_outputs(left: Mapping[str, Tensor], right: Mapping[str, Tensor], a: str, b: str) -> dict[str, Tensor]:
    """Return the second model's outputs under the first model's names.

    Raises:
        CheckFailed: the number of outputs (CB-VERIFY-02), a shape (CB-VERIFY-03) or a kind of numbers (CB-VERIFY-08)
            differs.
    """
    if len(left) != len(right):
        raise CheckFailed(
            "the two models have different outputs",
            code="CB-VERIFY-02",
            where=f"{a} and {b}",
            why=f"{', '.join(left)} in A, {', '.join(right)} in B",
            do="compare a model with its own export",
        )
    matched = dict(right) if set(left) == set(right) else dict(zip(left, right.values(), strict=True))
    for name, tensor in left.items():
        if tensor.shape != matched[name].shape:
            raise CheckFailed(
                "the shapes of an output differ",
                code="CB-VERIFY-03",
                where=f"output {name}",
                why=f"{list(tensor.shape)} in {a}, {list(matched[name].shape)} in {b}",
                do="compare a model with its own export",
            )
        if kind(tensor) != kind(matched[name]):
            raise CheckFailed(
                "an output has a dtype of another kind",
                code="CB-VERIFY-08",
                where=f"output {name}",
                why=f"{_described(tensor)} in {a}, {_described(matched[name])} in {b}",
                do="remove the conversion in B, or compare a model with its own export",
            )
    return matched


def other_order(left: Sequence[str], right: Sequence[str], what: str) -> str:
    """Return a note if the same names have another order; empty if they do not."""
    if set(left) != set(right) or list(left) == list(right):
        return ""
    return f"the {what} are compared by name, as their order differs: {', '.join(left)} in A, {', '.join(right)} in B"


def _described(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
