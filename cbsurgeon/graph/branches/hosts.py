"""Modules that can hold an operator: not containers, and not shared with something else under another name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from cbsurgeon.models.model import Model


@dataclass(frozen=True)
class Hosts:
    """Which modules an operator can be a child of.

    Attributes:
        containers: modules that run their children in turn: a child added to one would run as a layer of its own.
        others: path → the other paths of the same module, the first name first; for modules with several names.
    """

    containers: frozenset[str] = frozenset()
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def under(self, prefix: str) -> Hosts:
        """The same, for paths below a prefix."""
        start = f"{prefix}."
        return Hosts(
            frozenset(path.removeprefix(start) for path in self.containers if path.startswith(start)),
            {
                path.removeprefix(start): tuple(other.removeprefix(start) for other in others)
                for path, others in self.others.items()
                if path.startswith(start)
            },
        )

    def takes(self, path: str, runs: Callable[[str], int]) -> bool:
        """Whether a child of that module runs where the module runs, and nowhere else.

        Args:
            path: of the module.
            runs: how often the module of some path runs.
        """
        others = self.others.get(path, ())
        return path not in self.containers and not any(runs(other) for other in others)


def hosts_of(model: Model) -> Hosts:
    """Which modules of a model take a child; a program has none to ask."""
    if model.module is None:
        return Hosts()
    kinds = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    names: dict[int, list[str]] = {}
    for path, module in model.module.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(path)
    return Hosts(
        frozenset(path for path, module in model.module.named_modules() if isinstance(module, kinds)),
        {
            path: tuple(other for other in own if other != path)
            for own in names.values()
            if len(own) > 1
            for path in own
        },
    )
