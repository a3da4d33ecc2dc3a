"""Comparing two models on the same images: differences with confidence intervals, and sentences about them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy

from cbsurgeon.analysis.layer import TITLES, UNITS, Layer
from cbsurgeon.analysis.result import Shift
from cbsurgeon.analysis.statistics.reducing import NAMES
from cbsurgeon.checks.latency.statistics import student_quantile

DOUBT = 0.05
"""Probability that at least one of all sentences is wrong, and that the interval of one difference does not contain the
true difference."""


def compared(a: Sequence[Layer], b: Sequence[Layer]) -> tuple[tuple[Shift, ...], tuple[str, ...], int]:
    """Return the differences B minus A, sentences about the significant ones, and how many sentences were possible.

    The layers of both models must match (:func:`unlike`). The interval of a single difference is not corrected. Each
    sentence is about a group of consecutive layers, chosen because a difference is significant there. The intervals of
    the sentences are therefore corrected for every group and quantity that could have been chosen (Bonferroni), so that
    all sentences together hold with 95 % confidence.
    """
    shifts = [shift for first, second in zip(a, b, strict=True) for shift in _shifts(first, second)]
    layers = [sum(shift.quantity == name for shift in shifts) for name in NAMES]
    runs = sum(count * (count + 1) // 2 for count in layers)
    return tuple(shifts), tuple(_sentences(a, b, runs)), runs


def unlike(a: Sequence[Layer], b: Sequence[Layer]) -> str:
    """Return why the layers of two models do not match, for example another image size; empty if they match."""
    if len(a) != len(b):
        return f"A has {len(a)} attentions and B has {len(b)}"
    for first, second in zip(a, b, strict=True):
        for name in ("heads", "queries", "keys"):
            one, other = getattr(first.attention, name), getattr(second.attention, name)
            if one != other:
                return f"layer {first.attention.index} has {one} {name} in A and {other} in B"
    return ""


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


def interval(gaps: numpy.ndarray, doubt: float = DOUBT) -> tuple[float, float] | None:
    """Return the ``1 - doubt`` Student interval of the mean of paired differences; ``None`` for fewer than two."""
    if len(gaps) < 2:
        return None
    half = student_quantile(1 - doubt / 2, len(gaps) - 1) * gaps.std(ddof=1) / math.sqrt(len(gaps))
    return float(gaps.mean() - half), float(gaps.mean() + half)


def _sentences(a: Sequence[Layer], b: Sequence[Layer], runs: int) -> Iterator[str]:
    """One sentence for each run of neighbouring layers whose corrected intervals lie on one side of 0."""
    for name in NAMES:
        gaps = [(first, second, _gaps([first], [second], name)) for first, second in zip(a, b, strict=True)]
        for sign, run in groupby((row for row in gaps if len(row[2])), key=lambda row: _sign(row[2], runs)):
            if sign:
                first, second, _ = zip(*run, strict=True)
                yield _sentence(first, second, name, runs)


def _sign(gaps: numpy.ndarray, runs: int) -> int:
    ends = interval(gaps, DOUBT / runs)
    if ends is None or ends[0] <= 0 <= ends[1]:
        return 0
    return 1 if ends[0] > 0 else -1


def _sentence(a: Sequence[Layer], b: Sequence[Layer], name: str, runs: int) -> str:
    gaps = _gaps(a, b, name)
    ends = interval(gaps, DOUBT / runs) or (math.nan, math.nan)
    low, high = sorted(abs(end) for end in ends)
    first, last = a[0].attention.index, a[-1].attention.index
    layers = f"layer {first}" if first == last else f"layers {first} to {last}"
    unit = f" {UNITS[name]}" if name in UNITS else ""
    mean = float(gaps.mean())
    word = "higher" if mean > 0 else "lower"
    return f"the {TITLES[name]} of {layers} is {abs(mean):.3g}{unit} {word} in B, 95 % interval {low:.3g} to {high:.3g}"
