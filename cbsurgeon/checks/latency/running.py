"""Checks before timing: both models run in the same mode, and the candidate does not run the baseline's graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cbsurgeon.checks.latency.sampling import Timed
from cbsurgeon.errors import CheckFailed

KEPT = 0.5
"""Smallest fraction of the eager models' output distance that the timed models must show. Rounding changes it by far
less; if one model runs the other's graph, the distance is zero."""

SMALLEST = 1e-3
"""Smallest relative L2 distance of the eager outputs that is checked: rounding in 16 bits could hide less."""


def distance(a: object, b: object) -> float | None:
    """Return the relative L2 distance of two outputs; ``None`` if they are not tensors of the same shapes.

    Args:
        a, b: tensors or arrays, possibly nested in dictionaries, lists and tuples.
    """
    first, second = _leaves(a), _leaves(b)
    if not first or [value.shape for value in first] != [value.shape for value in second]:
        return None
    size = math.sqrt(sum(float((value**2).sum()) for value in first))
    apart = math.sqrt(sum(float(((y - x) ** 2).sum()) for x, y in zip(first, second, strict=True)))
    found = apart / size if size > 0 else math.nan
    return found if math.isfinite(found) else None


def require_comparable(a: Timed, b: Timed) -> None:
    """Raise an error if two models run in different modes, or if B computes the same as A although it should not.

    Raises:
        CheckFailed: the modes differ (CB-BENCH-05), or the outputs are equal although those of the eager models differ
            (CB-BENCH-04).
    """
    if a.mode != b.mode:
        raise CheckFailed(
            "the two models do not run in the same mode",
            code="CB-BENCH-05",
            where=f"A: {a.mode}; B: {b.mode}",
            why="one of them could not be recorded as a CUDA graph, so their times are not comparable",
            do="time both without recording: cuda_graph=False",
        )
    if b.expected is None or b.expected < SMALLEST:
        return
    found = distance(a.call(), b.call())
    if found is None or found >= KEPT * b.expected:
        return
    raise CheckFailed(
        "B, as it would be timed, computes the same as A",
        code="CB-BENCH-04",
        where=b.mode,
        why=f"the relative L2 distance of the outputs is {b.expected:.2g} in eager mode, but {found:.2g} here",
        do="call torch.compiler.reset() after an insertion, or bench in a fresh process",
    )


def _leaves(outputs: object) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    """Return the floating-point tensors and arrays, in order, as float64."""
    if isinstance(outputs, torch.Tensor):
        return [outputs.detach().double().cpu().numpy()] if outputs.is_floating_point() else []
    if isinstance(outputs, np.ndarray):
        return [outputs.astype(np.float64)] if np.issubdtype(outputs.dtype, np.floating) else []
    parts: Sequence[object] = ()
    if isinstance(outputs, Mapping):
        parts = list(outputs.values())
    elif isinstance(outputs, (list, tuple)):
        parts = outputs
    return [leaf for part in parts for leaf in _leaves(part)]
