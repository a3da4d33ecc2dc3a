"""The values of an input that are tried: some tokens are marked in it, in every way that could hide them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import permutations, product

import torch
from torch import Tensor

from cbsurgeon.graph.attention.probing.order import FEW, later, spread
from cbsurgeon.graph.attention.probing.stretches import Layout
from cbsurgeon.operators.common.masking import CLOSED as FAR_BELOW

OTHER = 2
"""Value of a token that is not hidden, for inputs that hold other numbers than zeros and ones."""

SHARE = 0.5
"""Value of a token that is not hidden, for inputs of fractions between 0 and 1."""

MOST_NUMBERS = 4
"""Numbers per sample in an input that says how many tokens there are (rows and columns, a start and an end)."""

RANDOM = 4
"""Number of random mixtures of the numbers that a graph tells apart."""

Pair = tuple[Tensor, Tensor]
"""An input in which no token is marked, and the same input with some tokens marked."""

Trials = Iterator[tuple[Tensor, Iterator[Pair]]]
"""Sets of tokens to hide, ``[tokens]``, each with the pairs that could mark them."""


def absent(example: Tensor, own: Layout | None, marks: Sequence[int]) -> Trials:
    """Yield sets of tokens to hide, each with an input that holds the tokens themselves (``own`` says where), and the
    same with zeros, not-a-number, infinity, or a number that the graph compares, for these tokens."""
    if own is None or not example.is_floating_point():
        return
    rows = own.rows(example)

    def pairs(hidden: Tensor) -> Iterator[Pair]:
        for value in dict.fromkeys((0.0, 1.0, math.nan, math.inf, -math.inf, *map(float, marks))):
            changed = rows.clone()
            changed[hidden] = value
            yield example, own.tensor(changed, example)

    second = torch.arange(len(rows)) >= len(rows) // 2
    yield second, pairs(second)
    yield ~second, pairs(~second)


def trials(example: Tensor, batched: bool, sizes: tuple[int, ...], marks: Sequence[int]) -> Trials:
    """Yield sets of tokens to hide, each with the pairs of inputs that could mark these tokens."""
    if example.is_floating_point() and not bool((example == example.round()).all()) and bool((example < 0).any()):
        return  # noise; a mask holds whole numbers or fractions between 0 and 1
    count = torch.Size(sizes).numel()
    second = torch.arange(count) >= count // 2
    axes = [later(sizes, axis) for axis in range(len(sizes))] if len(sizes) > 1 else []
    for hidden in (second, *axes):
        yield hidden, _lengths(example, batched, count)
    for hidden in (second, ~second):
        yield hidden, _absences(example, batched, count)
    shape = example.shape[1:] if batched and example.dim() else example.shape
    if shape.numel() == count:
        for hidden in (second, ~second):
            yield hidden, _marked(example, hidden.view(shape), marks)
        for hidden, place in ((second, count // 2 - 1), (~second, count // 2)):  # an end that hides what is behind it
            alone = torch.zeros(count, dtype=torch.bool)
            alone[place] = True
            yield hidden, _marked(example, alone.view(shape), marks)
    elif example.shape[-2:] == (count, count):
        for hidden in (second, ~second):  # rows: the tokens that are compared; columns: the hidden tokens
            yield hidden, _marked(example, ~hidden[:, None] & hidden[None, :], marks)
    else:
        for axis, size in enumerate(sizes):
            rest = [one for one in shape if one > 1]
            for hidden in (later(sizes, axis), ~later(sizes, axis)):
                if rest == [size]:  # one value per frame, for tokens that are frames times patches
                    yield (
                        hidden,
                        _marked(example, hidden.view(sizes).movedim(axis, 0).flatten(1)[:, 0].view(shape), marks),
                    )
                elif _is_finer(rest, sizes):
                    finer = hidden.view(sizes)  # one value per pixel, for tokens that are patches
                    for place, (own, coarse) in enumerate(zip(rest, sizes, strict=True)):
                        finer = finer.repeat_interleave(own // coarse, place)
                    yield hidden, _marked(example, finer.reshape(shape), marks)


def _is_finer(rest: Sequence[int], sizes: Sequence[int]) -> bool:
    return len(rest) == len(sizes) and all(a % b == 0 for a, b in zip(rest, sizes, strict=True))


def _fits(shape: torch.Size, sizes: tuple[int, ...]) -> bool:
    """Whether :func:`trials` marks tokens in an input of this shape."""
    count, rest = torch.Size(sizes).numel(), [size for size in shape if size > 1]
    alone = shape.numel() == count or shape[-2:] == (count, count)
    return alone or any(rest == [size] for size in sizes) or _is_finer(rest, sizes)


def orders(example: Tensor, batched: bool, sizes: tuple[int, ...]) -> Trials:
    """Yield sets of tokens to hide, each with pairs of an input that may hold the place of each token in an order: in
    the first of a pair, the hidden tokens are in front of the others, and in the second behind them, or the other way
    round."""
    shape = example.shape[1:] if batched and example.dim() else example.shape
    count, rest = torch.Size(sizes).numel(), [size for size in shape if size > 1]
    if example.dtype == torch.bool:
        return
    if shape.numel() == count:
        second = torch.arange(count) >= count // 2
        for hidden in (second, ~second):
            yield hidden, _placed(example, hidden.view(shape))
        return
    for axis, size in enumerate(sizes):
        if rest == [size]:
            for hidden in (later(sizes, axis), ~later(sizes, axis)):
                yield hidden, _placed(example, hidden.view(sizes).movedim(axis, 0).flatten(1)[:, 0].view(shape))


def _placed(example: Tensor, hidden: Tensor) -> Iterator[Pair]:
    """Yield the pairs of :func:`orders`. ``hidden`` has the shape of one sample."""
    given = example.reshape(-1, hidden.numel())[0].sort().values
    whole = torch.arange(hidden.numel()).to(example.dtype)
    for ranks in (whole, given) if bool((given.diff() > 0).all()) and not torch.equal(given, whole) else (whole,):
        front, behind = torch.empty_like(ranks), torch.empty_like(ranks)
        front[hidden.flatten().long().argsort(descending=True, stable=True)] = ranks
        behind[hidden.flatten().long().argsort(stable=True)] = ranks
        before, after = (one.view(hidden.shape).expand(example.shape).clone() for one in (front, behind))
        yield before, after
        yield after, before


def is_mask(example: Tensor) -> bool:
    """Return whether an input holds truth values, zeros and ones, or zeros and large negative numbers."""
    return bool(((example == 0) | (example == 1)).all()) or bool(((example == 0) | (example < FAR_BELOW)).all())


def is_scale(example: Tensor) -> bool:
    """Return whether an input holds fractions between 0 and 1."""
    shares = example.is_floating_point() and bool(((example >= 0) & (example <= 1)).all())
    return shares and not bool((example == example.round()).all())


def elsewhere(example: Tensor, batched: bool, sizes: tuple[int, ...], marks: Sequence[int]) -> Iterator[Pair]:
    """Yield pairs of an input that has no value per token, with half of it marked: its values may belong to groups of
    tokens, to pixels, or to some of the tokens.

    Args:
        example, batched, sizes: as in :func:`trials`.
        marks: the numbers that may mark a token, if the graph compares the input with numbers; else empty. Inputs of
            zeros and ones are tried in any case.
    """
    shape = example.shape[1:] if batched and example.dim() else example.shape
    binary = bool(((example == 0) | (example == 1)).all())
    if _fits(shape, sizes) or shape.numel() < 2:
        return
    if not binary and not example.is_floating_point() and shape.numel() <= MOST_NUMBERS:
        for column in range(shape.numel()):
            fewer = example.clone()
            fewer[..., column] //= 3
            yield example, fewer
    if not binary and (not marks or len(shape) > 1):
        return
    for axis, size in enumerate(shape):
        second = (torch.arange(size) >= size // 2).view(-1, *[1] * (len(shape) - axis - 1)).expand(shape)
        for hidden in (second, ~second) if size > 1 else ():
            yield from _marked(example, hidden, (0, 1) if binary else marks)


def choices(example: Tensor, batched: bool) -> Iterator[Pair]:
    """Yield pairs of an input that holds one choice per sample (a task, a direction, a length), as a number or as the
    place of a one among zeros."""
    if (
        batched
        and example.dim() == 2
        and bool(((example == 1).sum(1) == 1).all() and ((example != 0).sum(1) == 1).all())
    ):
        ends = dict.fromkeys((example.shape[1] - 1, example.shape[1] // 2, 0))
        yield from permutations([_one_at(example, place) for place in ends], 2)
        return
    numbers = range(3) if not example.is_floating_point() and example.dtype != torch.bool else range(2)
    for first, second in permutations(numbers, 2):
        yield torch.full_like(example, first), torch.full_like(example, second)


def is_choice(example: Tensor) -> bool:
    """Return whether an input with samples holds one whole number for each, or a one among zeros."""
    if not example.dim():
        return False
    if example[0].numel() == 1:
        return not example.is_floating_point() or bool((example == example.round()).all())
    ones, others = (example == 1).sum(-1), (example != 0).sum(-1)
    return example.dim() == 2 and bool((ones == 1).all()) and bool((others == 1).all())


def _one_at(example: Tensor, place: int) -> Tensor:
    chosen = torch.zeros_like(example)
    chosen[:, place] = 1
    return chosen


def scattered(example: Tensor, count: int, told: Sequence[int]) -> Iterator[Pair]:
    """Yield pairs of an input with one number per token: in the first, all numbers are equal; in the second, some are
    others: two, with tokens in between or without, or many at random.

    Args:
        example: the input.
        count: number of tokens.
        told: the number of all tokens in the first, and then the others.
    """
    if len(told) < 2:
        return
    plain, tested = torch.full_like(example, told[0]), spread(count, FEW).tolist()
    begin, end = tested[len(tested) // 4], tested[3 * len(tested) // 4]
    for (first, second), place in product(product(told[1:], repeat=2), (begin, end - 1)):
        marked = plain.clone()
        marked[..., place], marked[..., end] = first, second
        yield plain, marked
    generator = torch.Generator().manual_seed(0)
    for _ in range(RANDOM):
        some = torch.tensor(told).repeat(2 * count // len(told) + 1)[: 2 * count]
        row = some[torch.randperm(len(some), generator=generator)][:count]
        yield plain, row.to(example.dtype).expand_as(example).clone()


def _unlike(marks: Sequence[int]) -> int:
    """Return a number that does not mark a token: :data:`OTHER`, or the next one that is not in ``marks``."""
    return next(number for number in range(OTHER, OTHER + len(marks) + 1) if number not in marks)


def _lengths(example: Tensor, batched: bool, count: int) -> Iterator[Pair]:
    """Yield pairs for inputs that hold sequence lengths, or the bounds of sequences in a row (``cu_seqlens``)."""
    per_sample = example[0].numel() if batched and example.dim() else example.numel()
    if 0 < per_sample <= MOST_NUMBERS and example.dtype != torch.bool and bool((example >= 0).all()):
        if per_sample == 1 and bool((example >= 1).all()):
            yield torch.full_like(example, count), torch.full_like(example, count // 2)
        columns = example.reshape(-1, per_sample)
        for column in range(per_sample):
            fewer = columns.clone()
            fewer[:, column] = columns[:, column] / 3 if example.is_floating_point() else columns[:, column] // 3
            if not torch.equal(fewer, columns):
                yield example, fewer.view(example.shape)
    ends = example.flatten()
    if example.dim() == 1 and not batched and len(ends) > 2 and ends[0] == 0 and ends[-1] == count:
        plain = torch.full_like(example, count)
        plain[0] = 0
        marked = plain.clone()
        marked[1] = count // 2
        yield plain, marked


def _absences(example: Tensor, batched: bool, count: int) -> Iterator[Pair]:
    """Yield a pair for inputs that hold the number of tokens that are padding, at either end."""
    per_sample = example[0].numel() if batched and example.dim() else example.numel()
    if per_sample == 1 and example.dtype != torch.bool and bool(((example >= 0) & (example == example.round())).all()):
        yield torch.zeros_like(example), torch.full_like(example, count - count // 2)


def _marked(example: Tensor, hidden: Tensor, marks: Sequence[int]) -> Iterator[Pair]:
    """Yield pairs of an input without a marked token and with the hidden tokens marked, for every possible meaning.

    Args:
        example: the input.
        hidden: true where a value stands for a hidden token; broadcasts against the input.
        marks: the numbers that may mark a token.
    """
    binary = bool(((example == 0) | (example == 1)).all())
    shares = example.is_floating_point() and not binary and bool((example <= 1).all())
    for mark in marks:
        plain = example.clone()
        plain[plain == mark] = 1 - mark if binary else SHARE if shares else _unlike(marks)
        yield plain, torch.where(hidden, torch.full_like(plain, mark), plain)
    if example.is_floating_point() and bool(((example == 0) | (example < FAR_BELOW)).all()):
        plain = torch.zeros_like(example)
        yield plain, torch.where(hidden, torch.full_like(plain, torch.finfo(plain.dtype).min / 2), plain)
    if not binary and not example.is_floating_point():  # each token may hold the number of its document or image
        plain = torch.full_like(example, OTHER)
        yield plain, torch.where(hidden, torch.ones_like(plain), plain)
