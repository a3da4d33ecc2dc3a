"""Two models on the same images: the difference of every quantity with its interval, and what it says in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy

from cbsurgeon.analysis.reducing import NAMES
from cbsurgeon.analysis.result import TITLES, UNITS, Layer, Shift
from cbsurgeon.checks.latency.statistics import student_quantile


def compared(a: Sequence[Layer], b: Sequence[Layer]) -> tuple[tuple[Shift, ...], tuple[str, ...]]:
    """Differences B minus A of every layer and quantity, and sentences for those that are shown.

    The layers of the two must be of the same form, one by one (see :func:`alike`).
    """
    shifts = [shift for first, second in zip(a, b, strict=True) for shift in _shifts(first, second)]
    return tuple(shifts), tuple(_sentences(a, b, shifts))


def alike(a: Sequence[Layer], b: Sequence[Layer]) -> bool:
    """Whether the layers of two models can be compared one by one: the same heads, queries and keys."""

    def form(layer: Layer) -> tuple[int, int, int]:
        return layer.attention.heads, layer.attention.queries, layer.attention.keys

    return [form(layer) for layer in a] == [form(layer) for layer in b]


def _shifts(first: Layer, second: Layer) -> Iterator[Shift]:
    for name in NAMES:
        gaps = _gaps([first], [second], name)
        if len(gaps):
            yield Shift(first.attention.index, name, float(gaps.mean()), interval(gaps))


def _gaps(a: Sequence[Layer], b: Sequence[Layer], name: str) -> numpy.ndarray:
    """B minus A per image, averaged over layers; images for which a quantity is not defined are left out."""
    rows = [
        numpy.asarray(second.images[name]) - numpy.asarray(first.images[name])
        for first, second in zip(a, b, strict=True)
    ]
    gaps: numpy.ndarray = numpy.mean(rows, 0)
    return numpy.asarray(gaps[numpy.isfinite(gaps)])


def interval(gaps: numpy.ndarray) -> tuple[float, float] | None:
    """95 % Student interval of the mean of paired differences; ``None`` for fewer than two."""
    if len(gaps) < 2:
        return None
    half = student_quantile(0.975, len(gaps) - 1) * gaps.std(ddof=1) / math.sqrt(len(gaps))
    return float(gaps.mean() - half), float(gaps.mean() + half)


def _sentences(a: Sequence[Layer], b: Sequence[Layer], shifts: Sequence[Shift]) -> Iterator[str]:
    """One sentence for each run of neighbouring layers whose intervals lie on one side of 0."""
    by_index = {layer.attention.index: place for place, layer in enumerate(a)}
    for name in NAMES:
        own = [shift for shift in shifts if shift.quantity == name]
        for sign, run in groupby(own, key=_sign):
            places = [by_index[shift.layer] for shift in run]
            if sign:
                yield _sentence([a[i] for i in places], [b[i] for i in places], name, sign)


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
