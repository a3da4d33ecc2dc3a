"""What a rule of the ground truth is.

A rule names a class and the attributes that hold an MLP's first and last projections; a veto takes a place back (a
class attention's MLP runs on one token). Both say why, in one sentence, where it is not obvious. This is the one
corner of the project that reads class and attribute names, so that it cannot share a mistake with the finder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn


@dataclass(frozen=True)
class Where:
    """A module of the model being judged.

    Attributes:
        module: the module a rule matched.
        path: its path, empty for the model itself.
        model: the model.
    """

    module: nn.Module
    path: str
    model: nn.Module

    @property
    def parent(self) -> nn.Module:
        """The module that holds it."""
        return self.model.get_submodule(self.path.rpartition(".")[0])

    @property
    def previous(self) -> nn.Module | None:
        """The module before it in the sequence that holds it."""
        siblings = list(self.parent.children())
        index = next(i for i, sibling in enumerate(siblings) if sibling is self.module)
        return siblings[index - 1] if index else None


@dataclass(frozen=True)
class Rule:
    """Modules of a class hold one MLP.

    Attributes:
        kind: pattern for ``package.module.Class``.
        fc1, fc2: paths of the projections below the module.
        when: asked about each match; a match it refuses is not a block.
        why: the reason, where the case is not obvious.
        refused: the reason for what ``when`` refuses.
    """

    kind: str
    fc1: tuple[str, ...]
    fc2: tuple[str, ...]
    when: Callable[[Where], bool] | None = None
    why: str = ""
    refused: str = ""


@dataclass(frozen=True)
class Veto:
    """Whatever a rule finds at or below an attribute of a class is not a block.

    Attributes:
        owner: pattern for ``package.module.Class``.
        attribute: path below the owner; empty for the owner itself.
        why: the reason.
        when: asked about the owner; a veto it refuses does not count.
    """

    owner: str
    attribute: str
    why: str
    when: Callable[[Where], bool] | None = None


@dataclass(frozen=True)
class Remark:
    """Modules of a class look like an MLP block and no rule takes them; the reason goes into the truth.

    Attributes:
        kind: pattern for ``package.module.Class``.
        why: the reason.
    """

    kind: str
    why: str


def qualified(module: nn.Module) -> str:
    """``package.module.Class`` of a module."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def matches(module: nn.Module, pattern: str) -> bool:
    """Whether a module's class fits a pattern."""
    return fnmatchcase(qualified(module), pattern)
