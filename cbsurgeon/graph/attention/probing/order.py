"""The order in which the tokens of a stretch see each other: some are changed, and the others are compared."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

CLOSED = 1e-4
"""If the influence in one direction is below this fraction of the influence in the other, it is rounding error (of a
Fourier transform, or of a mask that is large but finite). Without a mask, the two directions differ far less."""

REACHED = 1e-6
"""A token counts as changed if it changes by more than this fraction of the largest change of any token. The rounding
error of a Fourier transform is about 1e-7 of the largest change in float32."""

FEW, MANY = 8, 32
"""Number of tokens that are changed one by one to check that tokens see each other in the order of their axis: ``FEW``
if the two halves of an axis already showed that order, else ``MANY``."""

SOME, STEPS = 4, 6
"""How many tokens, besides the second and the last but one, are followed to all that they reach, and in how many steps:
in each, the tokens that were reached are changed as well."""

MOST_FAR = 2
"""Number of tokens whose reach is not found within :data:`STEPS` runs, after which no more are followed."""

Order = Literal["future", "past", "mixed", "open", "unknown"]
"""Which tokens a token does not see: later ones, earlier ones, some in another order, none, or unknown."""


class Run(Protocol):
    """Changes tokens and measures how much every token of some tensors changes.

    Attributes:
        floors: for each tensor, the change below which it is rounding error.
    """

    floors: list[float]

    def __call__(self, changed: Tensor, /) -> list[Tensor]:
        """Return, for each tensor, the largest change of each token, ``[tokens]``."""


def order_of(run: Run, sizes: tuple[int, ...], padded: bool, sites: bool) -> Order:
    """Return which tokens the tokens of a stretch do not see.

    Args:
        run: runs the stretch.
        sizes: sizes of its token axes.
        padded, sites: as in :meth:`cbsurgeon.graph.attention.probing.influence.Probe.order`.
    """
    order = _shown(run, sizes, padded, sites)
    return "open" if order in ("future", "past", "mixed") and _only_moved(run, torch.Size(sizes).numel()) else order


def _shown(run: Run, sizes: tuple[int, ...], padded: bool, sites: bool) -> Order:
    seen: Order = "unknown"
    count = torch.Size(sizes).numel()
    for axis, size in enumerate(sizes):
        if size > 1:
            found = _across(run, later(sizes, axis))
            if found in ("future", "past"):
                mixed = found == "future" and _leaks_causally(run, count, FEW, padded)
                return "mixed" if mixed else found
            seen = found if seen == "unknown" else seen
    if not _last_is_hidden(run, count, padded) and not (sites and _one_way(run, count, padded)):
        return seen
    return "mixed" if _leaks_causally(run, count, MANY, padded) else "future"


def _only_moved(run: Run, count: int) -> bool:
    """Whether tokens are only moved (rolled, shuffled): changing one token changes a single token of the output."""
    for token in sorted({0, count // 3, count // 2, count - 1}):
        alone = _only(count, token)
        shown = [int((moved > floor).sum()) for moved, floor in zip(run(alone), run.floors, strict=True)]
        if max(shown) != 1:
            return False
    return True


def later(sizes: tuple[int, ...], axis: int) -> Tensor:
    """Return ``[tokens]``, true for the tokens in the second half of one token axis."""
    place = torch.arange(sizes[axis]).view(-1, *[1] * (len(sizes) - axis - 1)).expand(sizes)
    return place.reshape(-1) >= sizes[axis] // 2


def _across(run: Run, behind: Tensor) -> Order:
    """Return the order that is shown by changing each half of the tokens, at the first exit that shows one. At other
    exits, tokens may be in another order, such as flipped, in which they seem to see each other."""
    back_moves, ahead_moves = run(behind), run(~behind)
    seen: Order = "unknown"
    for back, ahead, floor in zip(back_moves, ahead_moves, run.floors, strict=True):
        backward, forward = float(back[~behind].max()), float(ahead[behind].max())
        if hidden(backward, forward, floor):
            return "future"
        if hidden(forward, backward, floor):
            return "past"
        if backward > 0 and forward > 0:
            seen = "open"
    return seen


def _last_is_hidden(run: Run, count: int, padded: bool) -> bool:
    """Return whether the last token sees tokens that do not see it, in any order.

    This detects a prefix that all tokens see, blocks of tokens that see each other, and axes that were merged. With
    padding, the last token that another one sees is tested.
    """
    for last in [count - 1, *(count - 2**step for step in range(1, count.bit_length()) if padded)]:
        chosen = _only(count, last)
        alone = run(chosen)
        if padded and not any(bool((_reached(moved) & ~chosen).any()) for moved in alone):
            continue
        for place, moved in enumerate(alone):
            others = ~(_reached(moved) | chosen)
            if not bool(others.any()):
                continue
            back, forward = float(moved[others].max()), float(run(others)[place][last])
            if forward > run.floors[place] and hidden(back, forward, run.floors[place]):
                # One token may reach the others through a mean over all tokens, too little to be measured. What it
                # reaches is changed as well: if the others do not see the last token, they do not see these either.
                together = float(run(~others)[place][others].max())
                if hidden(together, forward, run.floors[place]):
                    return True
        return False
    return False


def _one_way(run: Run, count: int, padded: bool) -> bool:
    """Return whether some tokens influence others to which nothing ever leads back, however many layers follow.

    This detects a prompt behind causal tokens, queries in front of the tokens that they read, and every other one-way
    influence that two halves and the last token do not show. Windows and convolutions are not one-way: what a token
    reaches in several layers reaches it as well. With padding, tokens that no other token sees are left out.
    """
    for place in dict.fromkeys([*spread(count, SOME).tolist(), min(1, count - 1), max(count - 2, 0)]):
        reached = _only(count, place)
        for _ in range(STEPS):
            moves = run(reached)
            grown = reached | torch.stack([_reached(moved) for moved in moves]).any(dim=0)
            if bool(grown.all()) or (padded and int(grown.sum()) == 1):
                break
            if torch.equal(grown, reached):
                ahead = [float(moved[grown].max()) for moved in run(~grown)]
                back = [float(moved[~grown].max()) for moved in moves]
                pairs = zip(back, ahead, run.floors, strict=True)
                if any(forward > floor and hidden(less, forward, floor) for less, forward, floor in pairs):
                    return True
                break
            reached = grown
    return False


def spread(count: int, most: int) -> Tensor:
    """Return the numbers of some tokens, spread evenly over all of them."""
    return torch.linspace(0, count - 1, min(count, most)).round().long()


def _leaks_causally(run: Run, count: int, most: int, padded: bool) -> bool:
    """Return whether a causal mean leaks as well: some token sees a later token that does not see it, or a token
    influences two others of which neither influences the other, however many layers follow (as in a tree)."""
    places = spread(count, most)
    direct = torch.stack([_reached_by(run, _only(count, place)) for place in places.tolist()])  # [changed, moved]
    sees = direct[:, places]
    if bool((sees & ~sees.T).tril(-1).any()):  # the changed token is later, and does not see the other
        return True
    if padded:  # padding is seen by no other token
        return False
    found: list[Tensor] = []
    far = 0
    for place, first in zip(places.tolist(), direct, strict=True):
        reached = first if bool(first[place:].all()) else reach(run, first)
        if reached is not None and any(root[place] and bool((root & ~reached)[place:].any()) for root in found):
            return True
        found += [reached] if reached is not None else []
        far += reached is None
        if far == MOST_FAR:
            return False
    return False


def _reached(moved: Tensor) -> Tensor:
    """Return ``[tokens]``, true for the tokens that change by more than rounding error."""
    return moved > REACHED * float(moved.max())


def hidden(less: float, more: float, floor: float) -> bool:
    """Return whether one of two influences is none, and the other is more than rounding error."""
    return more > 0 and (less == 0 or (more > floor and less <= CLOSED * more))


def _only(count: int, place: int) -> Tensor:
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[place] = True
    return chosen


def _reached_by(run: Run, changed: Tensor) -> Tensor:
    return changed | torch.stack([_reached(moved) for moved in run(changed)]).any(dim=0)


def reach(run: Run, reached: Tensor) -> Tensor | None:
    """Return ``[tokens]``, true for the tokens that some tokens influence, however many layers follow; ``None`` if
    :data:`STEPS` runs do not show all of them."""
    for _ in range(STEPS):
        grown = _reached_by(run, reached)
        if bool(grown.all()) or torch.equal(grown, reached):
            return grown
        reached = grown
    return None


def turned(run: Run, count: int) -> bool:
    """Return whether later tokens influence earlier ones at some exit, but not at the last: in between, the tokens were
    in another order."""
    behind = later((count,), 0)
    back = [
        float(moved[~behind].max()) > max(floor, CLOSED * float(moved[behind].max()))
        for moved, floor in zip(run(behind), run.floors, strict=True)
    ]
    return any(back) and not back[-1]


def groups_of(run: Run, count: int) -> int:
    """Return the number of groups of tokens that do not influence each other, each of several tokens; 0 if there is
    one, or if it is not known.

    Tokens that are tested belong to one group if both influence some token. If the groups that are seen are equally
    large, there may be more of them.
    """
    groups: list[Tensor] = []
    for place in dict.fromkeys([0, count - 1, *spread(count, FEW).tolist()]):
        reached = reach(run, _only(count, place))
        if reached is None or bool(reached.all()):
            return 0
        near = [one for one in groups if bool((one & reached).any())]
        groups = [one for one in groups if not bool((one & reached).any())]
        groups.append(torch.stack([reached, *near]).any(dim=0))
    sizes = {int(one.sum()) for one in groups}
    if len(groups) < 2 or min(sizes) < 2:
        return 0
    return count // sizes.pop() if len(sizes) == 1 else len(groups)


def depends_on_place(run: Run, count: int) -> bool:
    """Return whether the tokens of one sample see each other in an order, along no axis.

    Either no two tokens see each other both ways, and some see each other one way; or of each two tokens, one sees the
    other, and a third of the pairs or more see each other one way. Neighbours in a graph are not of this kind: some see
    each other both ways, and some do not see each other at all.
    """
    seen: dict[int, Tensor] = {}
    one_way = both_ways = neither = 0
    at_once = True
    for place in spread(count, FEW).tolist():
        direct = _reached_by(run, _only(count, place))
        reached = reach(run, direct)
        if reached is None:
            return False
        at_once &= torch.equal(reached, direct)
        for other, from_other in seen.items():
            ahead, back = bool(reached[other]), bool(from_other[place])
            one_way += ahead != back
            both_ways += ahead and back
            neither += not ahead and not back
        if both_ways and (neither or not at_once):
            return False
        seen[place] = reached
    return one_way > 0 and (not both_ways or 3 * one_way >= one_way + both_ways)


def influence_is_lost(before: Run, after: Run, count: int) -> bool:
    """Return whether a token, with all that it reaches, influences others in one run and none in another."""
    for place in spread(count, FEW).tolist():
        chosen = reach(after, _only(count, place))
        if chosen is None or bool(chosen.all()):
            continue
        kept = max(float(moved[~chosen].max()) for moved in after(chosen))
        if kept > max(after.floors):
            continue
        shown = max(float(moved[~chosen].max()) for moved in before(chosen))
        if shown > max(before.floors) and kept <= CLOSED * shown:
            return True
    return False


def output_is_lost(before: Run, after: Run, count: int) -> bool:
    """Return whether a token influences the exits in one run and not in another; the exits hold no tokens."""
    for place in spread(count, FEW).tolist():
        kept, shown = (max(float(moved.max()) for moved in run(_only(count, place))) for run in (after, before))
        if shown > max(before.floors) and kept <= min(max(after.floors), CLOSED * shown):
            return True
    return False
