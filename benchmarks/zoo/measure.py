"""One model of the sweep: inspect it and compare what was found with what is expected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import nn

from benchmarks.zoo.entry import Entry
from benchmarks.zoo.sweeping import attempt

Places = frozenset[str]


def measure(entry: Entry, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Inspect an entry and report what was expected, found, missed and extra, and how long it took.

    An entry that cannot be built, captured or read is reported with the first line of its error, and all of its blocks
    count as missed.
    """
    blocks = expected["blocks"]
    missed = ["+".join(block["fc2"]) for block in blocks]
    with attempt(entry, expected=len(blocks), found=0, missed=missed, extra=[], seconds={}) as result:
        result.update(_compare(entry, expected))
    return result


def _compare(entry: Entry, expected: Mapping[str, Any]) -> dict[str, Any]:
    from cbsurgeon.graph import inspect
    from cbsurgeon.models.model import Model, Provenance

    module, args, kwargs = entry.build()
    found = inspect(Model(module, args, Provenance(entry.name), kwargs, batch_axis=entry.batch_axis))
    first = first_names(module)
    wanted = [_keyed(block["fc1"], block["fc2"], block["calls"], first) for block in expected["blocks"]]
    chosen = [_keyed(block.fc1, block.fc2, block.calls, first) for block in found.blocks if block.default]
    missed = Counter(last for last, _, _ in wanted) - Counter(last for last, _, _ in chosen)
    extra = Counter(last for last, _, _ in chosen) - Counter(last for last, _, _ in wanted)
    both = {last: (fc1, calls) for last, fc1, calls in wanted}
    return {
        "found": len(chosen),
        "missed": sorted(_shown(place) for place in missed.elements()),
        "extra": sorted(_shown(place) for place in extra.elements()),
        "fc1_differs": [
            f"{_shown(last)}: {_shown(fc1)} instead of {_shown(both[last][0])}"
            for last, fc1, _ in chosen
            if last in both and fc1 != both[last][0]
        ],
        "calls_differ": [
            f"{_shown(last)}: {calls} instead of {both[last][1]}"
            for last, _, calls in chosen
            if last in both and calls != both[last][1]
        ],
        "order_differs": not missed
        and not extra
        and [last for last, _, _ in chosen] != [last for last, _, _ in wanted],
        "on_request": dict(Counter(block.kind for block in found.blocks if not block.default)),
        "left_out": dict(found.left_out),
        "seconds": {name: round(value, 3) for name, value in found.seconds.items()},
    }


def first_names(module: nn.Module) -> dict[str, str]:
    """Every path of every module → the first path of the same module: shared modules have several."""
    first: dict[int, str] = {}
    return {path: first.setdefault(id(part), path) for path, part in module.named_modules(remove_duplicate=False)}


def _keyed(fc1: Any, fc2: Any, calls: int, first: Mapping[str, str]) -> tuple[Places, Places, int]:
    return frozenset(first.get(path, path) for path in fc2), frozenset(first.get(path, path) for path in fc1), calls


def _shown(places: Places) -> str:
    return "+".join(sorted(places)) or "(no module)"
