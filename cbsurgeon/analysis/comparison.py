"""Comparing two models on the same images: differences with confidence intervals, and sentences about them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy

from cbsurgeon.analysis.reducing import NAMES
from cbsurgeon.analysis.result import TITLES, UNITS, Layer, Shift
from cbsurgeon.checks.latency.statistics import student_quantile


def compared(a: Sequence[Layer], b: Sequence[Layer]) -> tuple[tuple[Shift, ...], tuple[str, ...]]:
    """Return the differences B minus A of every layer and quantity, and sentences about the significant ones.

    The layers of both models must match (see :func:`alike`).
    """
    shifts = [shift for first, second in zip(a, b, strict=True) for shift in _shifts(first, second)]
    return tuple(shifts), tuple(_sentences(a, b, shifts))


def alike(a: Sequence[Layer], b: Sequence[Layer]) -> bool:
    """Return whether the layers of two models match: the same numbers of heads, queries and keys."""

    def form(layer: Layer) -> tuple[int, int, int]:
        return layer.attention.heads, layer.attention.queries, layer.attention.keys

    return [form(layer) for layer in a] == [form(layer) for layer in b]


def _shifts(first: Layer, second: Layer) -> Iterator[Shift]:
    for name in NAMES:
        gaps = _gaps([first], [second], name)
        if len(gaps):
            yield Shift(first.attention.index, name, float(gaps.mean()), interval(gaps))


def _gaps(a: Sequence[Layer], b: Sequence[Layer], name: str) -> numpy.ndarray:
    """Return B minus A per image, averaged over layers; images without a value are left out."""
    rows = [
        numpy.asarray(second.images[name]) - numpy.asarray(first.images[name])
        for first, second in zip(a, b, strict=True)
    ]
    gaps: numpy.ndarray = numpy.mean(rows, 0)
    return numpy.asarray(gaps[numpy.isfinite(gaps)])


def interval(gaps: numpy.ndarray) -> tuple[float, float] | None:
    """Return the 95 % Student interval of the mean of paired differences; ``None`` for fewer than two."""
    if len(gaps) < 2:
        return None
    half = student_quantile(0.975, len(gaps) - 1) * gaps.std(ddof=1) / math.sqrt(len(gaps))
    return float(gaps.mean() - half), float(gaps.mean() + half)


def _sentences(a: Sequence[Layer], b: Sequence[Layer], shifts: Sequence[Shift]) -> Iterator[str]:
    """Yield one sentence per group of consecutive layers with significant differences of the same sign."""
    by_index = {layer.attention.index: number for number, layer in enumerate(a)}
    for name in NAMES:
        own = [shift for shift in shifts if shift.quantity == name]
        for sign, run in groupby(own, key=_sign):
            numbers = [by_index[shift.layer] for shift in run]
            if sign:
                yield _sentence([a[i] for i in numbers], [b[i] for i in numbers], name, sign)


def _sign(shift: Shift) -> int:
    if shift.ci95 is None or shift.ci95[0] <= 0 <= shift.ci95[1]:
        return 0
    return 1 if shift.value > 0 else -1


def _sentence(a: Sequence[Layer], b: Sequence[Layer], name: str, sign: int) -> str:
    gaps = _gaps(a, b, name)
    ends = interval(gaps) or (math.nan, math.nan)
    low, high = sorted(abs(end) for end in ends)
    first, last = a[0].attention.index, a[-1].attention.index
    layers = f"layer {first}" if first == last else f"layers {first} to {last}"
    unit = f" {UNITS[name]}" if name in UNITS else ""
    word = "higher" if sign > 0 else "lower"
    size = abs(float(gaps.mean()))
    return f"the {TITLES[name]} of {layers} is {size:.3g}{unit} {word}, 95 % interval {low:.3g} to {high:.3g}"
