"""What one executed graph has that another has not, after the back end's optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from cbsurgeon.checks.latency.share.trace import Node


@dataclass(frozen=True)
class Positions:
    """Where two sequences of operators differ, as positions in each.

    Attributes:
        added: of B's operators that A has not.
        removed: of A's operators that B has not.
        changed: pairs of an operator of A and one of B of the same type on tensors of another shape, type or number:
            a bias that folding moves from N tokens to one, or a fusion that no longer takes the bias along. These are
            in neither of the other two.
    """

    added: tuple[int, ...]
    removed: tuple[int, ...]
    changed: tuple[tuple[int, int], ...]

    def __bool__(self) -> bool:
        """Whether there is any difference."""
        return bool(self.added or self.removed or self.changed)


def differ(a: Sequence[Node], b: Sequence[Node]) -> Positions:
    """The multiset difference of two sequences of operators, by type, shapes and types of inputs and outputs.

    The sequences are aligned first, so that of twelve equal operators the right ones are named; what stands in another
    order in the two is no difference.
    """
    removed, added = set(range(len(a))), set(range(len(b)))
    for match in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
        removed.difference_update(range(match.a, match.a + match.size))
        added.difference_update(range(match.b, match.b + match.size))
    for place in sorted(removed):
        # What belongs to no inserted site moved more likely than what does.
        twins = [other for other in sorted(added, key=lambda one: (bool(b[one].site), one)) if b[other] == a[place]]
        if twins:
            removed.discard(place)
            added.discard(twins[0])
    changed = []
    for place in sorted(removed):
        twin = next((one for one in sorted(added) if b[one].op == a[place].op and not b[one].site), None)
        if twin is not None:
            removed.discard(place)
            added.discard(twin)
            changed.append((place, twin))
    return Positions(tuple(sorted(added)), tuple(sorted(removed)), tuple(changed))


def only_inserted(a: Sequence[Node], b: Sequence[Node], positions: Positions) -> bool:
    """Whether B executes what A does, and inserted operators beside it.

    True when no operator of A is lost and each that B adds belongs to an inserted site. Where the profiler names no
    site, what is added counts as inserted. An operator that works on another shape (``changed``) is not lost.
    """
    named = any(node.site for node in (*a, *b))
    return not positions.removed and (not named or all(b[place].site for place in positions.added))


def in_groups(nodes: Sequence[Node], added: Sequence[int], sites: Sequence[str]) -> tuple[Node, ...]:
    """The nodes with the sites of the added ones, where a profiler names none and their order tells.

    Operators that follow each other belong to one site. Where there are as many such groups as sites, all of the same
    operators, each site has its group; otherwise the nodes are returned as they are.
    """
    groups: list[list[int]] = []
    for place in added:
        if groups and place == groups[-1][-1] + 1:
            groups[-1].append(place)
        else:
            groups.append([place])
    alike = len({tuple(nodes[place].op for place in group) for group in groups}) == 1
    if any(node.site for node in nodes) or not alike or len(groups) != len(sites):
        return tuple(nodes)
    found = list(nodes)
    for group, site in zip(groups, sites, strict=True):
        for place in group:
            found[place] = replace(found[place], site=site)
    return tuple(found)
