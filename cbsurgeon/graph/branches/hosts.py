"""Which modules can have an operator as a child: not containers, and not modules that also run under another name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from cbsurgeon.models.model import Model


@dataclass(frozen=True)
class Hosts:
    """Which modules an operator can be a child of.

    Attributes:
        containers: modules that run their children in turn, so that an added child would run as another layer.
        others: path → the other paths of the same module, for modules with several paths.
    """

    containers: frozenset[str] = frozenset()
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def under(self, prefix: str) -> Hosts:
        """Return the same for a sub-module, with paths relative to it."""
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
        """Whether a module can have an operator as a child.

        Args:
            path: path of the module.
            runs: path → how often that module runs.
        """
        others = self.others.get(path, ())
        return path not in self.containers and not any(runs(other) for other in others)


def hosts_of(model: Model) -> Hosts:
    """Return which modules of a model can have an operator as a child; without limits if the model is a program."""
    if model.module is None:
        return Hosts()
    kinds = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    parts = dict(model.module.named_modules(remove_duplicate=False))
    names: dict[int, list[str]] = {}
    for path, module in parts.items():
        names.setdefault(id(module), []).append(path)
    return Hosts(
        frozenset(path for path, module in parts.items() if isinstance(module, kinds)),
        {
            path: tuple(other for other in own if other != path)
            for own in names.values()
            if len(own) > 1
            for path in own
        },
    )
