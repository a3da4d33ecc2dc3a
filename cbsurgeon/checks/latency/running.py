"""Whether what is about to be timed is what was asked for: both sides, in one mode, and the candidate no baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cbsurgeon.checks.latency.sampling import Timed
from cbsurgeon.errors import CheckFailed

KEPT = 0.5
"""Part of the distance between the eager outputs that has to be there in what is timed. Rounding changes it by far
less; a side that runs the other side's graph has none of it."""

SMALLEST = 1e-3
"""Relative L2 distance of the eager outputs below which rounding of a 16-bit type could hide it: not checked there."""


def distance(a: object, b: object) -> float | None:
    """Relative L2 distance of what two calls returned; ``None`` where that is no pair of tensors of the same shapes.

    Args:
        a, b: tensors or arrays, by themselves or in dictionaries, lists and tuples.
    """
    first, second = _leaves(a), _leaves(b)
    if not first or [value.shape for value in first] != [value.shape for value in second]:
        return None
    size = math.sqrt(sum(float((value**2).sum()) for value in first))
    apart = math.sqrt(sum(float(((y - x) ** 2).sum()) for x, y in zip(first, second, strict=True)))
    found = apart / size if size > 0 else math.nan
    return found if math.isfinite(found) else None


def require_comparable(a: Timed, b: Timed) -> None:
    """Refuse to time two sides that run in two modes, or a candidate that computes what the baseline computes.

    Raises:
        CheckFailed: the modes differ (CB-BENCH-05), or the outputs do not differ as those of the eager models do
            (CB-BENCH-04).
    """
    if a.mode != b.mode:
        raise CheckFailed(
            "the two sides do not run in the same way",
            code="CB-BENCH-05",
            where=f"A: {a.mode}; B: {b.mode}",
            why="one of them could not be recorded as a CUDA graph, and their times would not be comparable",
            do="time both without recording: cuda_graph=False",
        )
    if b.expected is None or b.expected < SMALLEST:
        return
    found = distance(a.call(), b.call())
    if found is None or found >= KEPT * b.expected:
        return
    raise CheckFailed(
        "what would be timed as B computes what A computes",
        code="CB-BENCH-04",
        where=b.mode,
        why=f"the outputs of the eager models are {b.expected:.2g} apart (relative L2), those to be timed {found:.2g}",
        do="call torch.compiler.reset() after an insertion, or bench in a fresh process",
    )


def _leaves(outputs: object) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    """Floating tensors and arrays, in order, in double precision."""
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
