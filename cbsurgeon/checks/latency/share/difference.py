"""Comparing two executed graphs: the operators that only one of them has, after the back end's optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from cbsurgeon.checks.latency.share.trace import Node


@dataclass(frozen=True)
class Positions:
    """The positions at which two sequences of operators differ.

    Attributes:
        added: positions in B of operators that A does not have.
        removed: positions in A of operators that B does not have.
        changed: pairs of positions (A, B) of operators of the same type whose tensors differ in shape, dtype or number,
            such as a bias that folding adds to one token instead of N. They are not in ``added`` or ``removed``.
    """

    added: tuple[int, ...]
    removed: tuple[int, ...]
    changed: tuple[tuple[int, int], ...]

    def __bool__(self) -> bool:
        """Whether there is any difference."""
        return bool(self.added or self.removed or self.changed)


def differ(a: Sequence[Node], b: Sequence[Node]) -> Positions:
    """Return the multiset difference of two sequences of operators, by type and by shapes and dtypes of their tensors.

    The sequences are aligned first, so that the right one of several equal operators is reported. A different order
    alone is not a difference.
    """
    removed, added = set(range(len(a))), set(range(len(b)))
    for match in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
        removed.difference_update(range(match.a, match.a + match.size))
        added.difference_update(range(match.b, match.b + match.size))
    for index in sorted(removed):
        # Prefer operators of the model itself: inserted operators cannot have moved.
        twins = [other for other in sorted(added, key=lambda one: (bool(b[one].site), one)) if b[other] == a[index]]
        if twins:
            removed.discard(index)
            added.discard(twins[0])
    changed = []
    for index in sorted(removed):
        twin = next((one for one in sorted(added) if b[one].op == a[index].op and not b[one].site), None)
        if twin is not None:
            removed.discard(index)
            added.discard(twin)
            changed.append((index, twin))
    return Positions(tuple(sorted(added)), tuple(sorted(removed)), tuple(changed))


def only_inserted(a: Sequence[Node], b: Sequence[Node], positions: Positions) -> bool:
    """Return whether B executes all operators of A and, in addition, only inserted ones.

    True if no operator is removed and every added one belongs to a site. If the profiler does not report sites, added
    operators count as inserted. Operators in ``changed`` do not count as removed.
    """
    named = any(node.site for node in (*a, *b))
    return not positions.removed and (not named or all(b[index].site for index in positions.added))


def in_groups(nodes: Sequence[Node], added: Sequence[int], sites: Sequence[str]) -> tuple[Node, ...]:
    """Return the nodes with sites assigned to the added ones by their order, if the profiler reports no sites.

    Consecutive added operators form a group. If there are as many groups as sites, and all groups have the same
    operators, each group gets a site; otherwise the nodes are returned unchanged.
    """
    groups: list[list[int]] = []
    for index in added:
        if groups and index == groups[-1][-1] + 1:
            groups[-1].append(index)
        else:
            groups.append([index])
    alike = len({tuple(nodes[index].op for index in group) for group in groups}) == 1
    if any(node.site for node in nodes) or not alike or len(groups) != len(sites):
        return tuple(nodes)
    found = list(nodes)
    for group, site in zip(groups, sites, strict=True):
        for index in group:
            found[index] = replace(found[index], site=site)
    return tuple(found)
