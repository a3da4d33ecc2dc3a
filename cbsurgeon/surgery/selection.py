"""Turn ``--layers``, ``--exclude`` and ``--kinds`` into an explicit list of blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cbsurgeon.errors import NothingMatched, UsageError, did_you_mean
from cbsurgeon.graph.block import Block, Rejected
from cbsurgeon.graph.blocks.assembly import ADAPTER, EXPERT

_RANGE = re.compile(r"^(\d+)-(\d+)$")
_COUNT = re.compile(r"^(first|last):(\d+)$")
TAPS = "taps"
"""Word of ``--exclude`` for the blocks whose residual stream is also an output of the model (:attr:`Block.tapped`)."""

FORMS = "all, upper, lower, first:N, last:N, 6-11, 0,2,4, a stack name, or stack:upper"


def select(
    blocks: Sequence[Block],
    layers: str = "upper",
    kinds: Iterable[str] | None = None,
    rejected: Sequence[Rejected] = (),
) -> list[Block]:
    """Return the blocks that a selector names, in graph order.

    Args:
        blocks: all blocks of one model.
        layers: ``all``; ``upper`` (positions ``n // 2`` and up of each stack, section 4.1: deeper layers gain more);
            ``lower``; ``first:N``; ``last:N``; ``6-11`` or ``0,2,4`` (block indices as printed by ``inspect``); a stack
            name; or ``stack:selector``, where numbers count inside the stack. Commas join several.
        kinds: block kinds to choose from instead of the default ones. A block named by its own index is always taken.
        rejected: candidates that are no blocks, nearest first; the error names the first one if there is no block.

    Raises:
        NothingMatched: there are no such blocks, or not all of them exist.
        UsageError: the selector cannot be read.
    """
    wanted = set(kinds) if kinds else None
    candidates = [block for block in blocks if (block.kind in wanted if wanted else block.default)]
    if not candidates:
        raise NothingMatched(
            f"no {'attention' if wanted == {'attention'} else 'MLP'} block to choose from",
            code="CB-LOCATE-01",
            where=f"--layers {layers}" + (f" --kinds {','.join(sorted(wanted))}" if wanted else ""),
            why=_nothing(blocks, wanted, rejected),
            do=_instead(blocks, wanted),
        )
    chosen: dict[int, Block] = {}
    for part in _parts(layers):
        for block in _select_one(part, blocks, candidates):
            chosen[block.index] = block
    return [chosen[index] for index in sorted(chosen)]


@dataclass(frozen=True)
class Exclusion:
    """The blocks to leave out: by index, and all that are tapped."""

    indices: frozenset[int]
    taps: bool

    @classmethod
    def read(cls, exclude: str | Iterable[int | str], blocks: Sequence[Block]) -> Exclusion:
        """Parse ``--exclude``.

        Args:
            exclude: block indices and the word ``taps``, as a list or as text separated by commas.
            blocks: all blocks of the model, attention included.

        Raises:
            UsageError: a word is neither an index nor ``taps``; or ``taps`` is given and the model was captured in
                parts, which do not show the tapped blocks.
            NothingMatched: an index does not exist.
        """
        words = _parts(exclude, "--exclude") if isinstance(exclude, str) else [str(word) for word in exclude]
        for word in words:
            if not word.isdecimal() and word != TAPS:
                raise UsageError(
                    f"cannot read {word!r} among the blocks to leave out",
                    code="CB-SELECT-01",
                    where="--exclude",
                    why="a block is named by its index",
                    do=f"block indices as `cbsurgeon inspect REF` prints them, or {TAPS}: --exclude 7,11,{TAPS}",
                )
        indices = frozenset(int(word) for word in words if word != TAPS)
        present = sorted({block.index for block in blocks})
        absent = sorted(indices.difference(present))
        if absent:
            raise _absent(",".join(words), absent, present, "--exclude")
        if TAPS in words:
            _refuse_unseen(blocks)
        return cls(indices, TAPS in words)

    def reason(self, block: Block) -> str:
        """Return why a block is left out; empty if it is not."""
        if block.index in self.indices:
            return "excluded on request"
        return "its residual stream is also an output of the model" if self.taps and block.tapped else ""


def _refuse_unseen(blocks: Sequence[Block]) -> None:
    unseen = [block.index for block in blocks if block.tapped is None]
    if unseen:
        raise UsageError(
            "cbsurgeon cannot find out which blocks are tapped",
            code="CB-SELECT-02",
            where=f"--exclude {TAPS}",
            why="the model was captured in parts, and the graph of a part does not show where its residual stream goes",
            do="give the indices of the tapped blocks: --exclude 3,7,11",
        )


def _nothing(blocks: Sequence[Block], wanted: set[str] | None, rejected: Sequence[Rejected]) -> str:
    """Why there is no block to choose from."""
    if not blocks:
        if wanted == {"attention"}:
            return "no residual branch of the model is attention"
        near = rejected[0] if rejected else None
        where = f" at {near.path}" if near is not None and near.path else ""
        cause = f"; the nearest candidate{where} is {near.reason} ({near.detail})" if near is not None else ""
        return f"no residual branch of the model is an MLP{cause}"
    kinds = ", ".join(sorted({block.kind for block in blocks}))
    if wanted:
        return f"the model has blocks of kind {kinds}, none of {', '.join(sorted(wanted))}"
    causes = dict.fromkeys(note for block in blocks for note in block.notes if note in (EXPERT, ADAPTER))
    return f"the model has blocks of kind {kinds} only, which are not chosen by default" + (
        f" ({'; '.join(causes)})" if causes else ""
    )


def _instead(blocks: Sequence[Block], wanted: set[str] | None) -> str:
    """What to do if there is no block to choose from."""
    if blocks and not wanted:
        return f"--kinds {','.join(sorted({block.kind for block in blocks}))} chooses them; or name them by index"
    return "see `cbsurgeon inspect REF --why` for what was rejected and the reason"


def _parts(text: str, option: str = "--layers") -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        forms = FORMS if option == "--layers" else f"block indices, {TAPS}"
        raise UsageError(
            "empty layer selector", code="CB-SELECT-01", where=option, why="it names no block", do=f"one of: {forms}"
        )
    return parts


def _select_one(part: str, blocks: Sequence[Block], candidates: Sequence[Block]) -> list[Block]:
    stacks = dict.fromkeys(block.stack for block in candidates)
    if part in stacks:
        return [block for block in candidates if block.stack == part]
    head = max((stack for stack in stacks if part.startswith(f"{stack}:")), key=len, default=None)
    if head is not None:
        tail = part[len(head) + 1 :]
        own = [block for block in candidates if block.stack == head]
        return _words(tail, [own]) or _numbers_inside(tail, own, head)
    words = _words(part, [[block for block in candidates if block.stack == stack] for stack in stacks])
    if words is not None:
        return words
    numbers = _numbers(part)
    if numbers is None:
        raise UsageError(
            f"cannot read the layer selector {part!r}",
            code="CB-SELECT-01",
            where="--layers",
            why=f"stacks of this model: {', '.join(stacks)}",
            do=did_you_mean(part, ["all", "upper", "lower", "first:3", "last:3", *stacks], "--layers ")
            or f"one of: {FORMS}",
        )
    known = {block.index: block for block in blocks}
    absent = [number for number in numbers if number not in known]
    if absent:
        raise _absent(part, absent, [block.index for block in candidates])
    explicit = len(numbers) == 1
    return [known[number] for number in numbers if explicit or known[number] in candidates]


def _words(word: str, stacks: Sequence[Sequence[Block]]) -> list[Block] | None:
    count = _COUNT.match(word)
    picked: list[Block] = []
    for own in stacks:
        half = len(own) // 2
        if word == "all":
            picked += own
        elif word == "upper":
            picked += own[half:]
        elif word == "lower":
            picked += own[:half]
        elif count:
            number = int(count[2])
            if number == 0 or number > len(own):
                raise _absent(word, [number], [block.index for block in own])
            picked += own[:number] if count[1] == "first" else own[-number:]
        else:
            return None
    return picked


def _numbers(part: str) -> list[int] | None:
    span = _RANGE.match(part)
    if span:
        low, high = int(span[1]), int(span[2])
        return list(range(low, high + 1)) or None
    return [int(part)] if part.isdigit() else None


def _numbers_inside(part: str, own: Sequence[Block], stack: str) -> list[Block]:
    numbers = _numbers(part)
    if numbers is None:
        raise UsageError(
            f"cannot read {part!r} after {stack}:",
            code="CB-SELECT-01",
            where="--layers",
            why="it is neither a keyword nor a number or range",
            do=f"one of: {FORMS}",
        )
    absent = [number for number in numbers if number >= len(own)]
    if absent:
        raise _absent(f"{stack}:{part}", absent, list(range(len(own))))
    return [own[number] for number in numbers]


def _absent(part: str, absent: Sequence[int], present: Sequence[int], option: str = "--layers") -> NothingMatched:
    return NothingMatched(
        f"{len(absent)} requested block{'s' if len(absent) > 1 else ''} not found",
        code="CB-LOCATE-03",
        where=f"{option} {part}: no block {', '.join(map(str, absent[:5]))}{' ...' if len(absent) > 5 else ''}",
        why=f"the blocks are {spans(present)}",
        do="choose blocks that exist; `cbsurgeon inspect REF` lists them",
    )


def spans(numbers: Sequence[int]) -> str:
    """Return numbers, sorted, as ``0-3, 6, 8-11``."""
    ordered = sorted(numbers)
    pieces: list[str] = []
    start = 0
    for i in range(1, len(ordered) + 1):
        if i == len(ordered) or ordered[i] != ordered[i - 1] + 1:
            first, last = ordered[start], ordered[i - 1]
            pieces.append(str(first) if first == last else f"{first}-{last}")
            start = i
    return ", ".join(pieces)
