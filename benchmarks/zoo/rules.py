"""The rules of the ground truth.

A rule names a class and the attributes with the first and last projections of an MLP. A veto excludes some of these
modules (the MLP of a class attention runs on one token). Both contain the reason in one sentence if it is not obvious.
Only this part of the project reads class and attribute names, so that it cannot have the same errors as cbsurgeon.
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
        when: function called for each match; if it returns false, the match is not a block.
        why: the reason, if it is not obvious.
        refused: the reason for matches for which ``when`` returns false.
    """

    kind: str
    fc1: tuple[str, ...]
    fc2: tuple[str, ...]
    when: Callable[[Where], bool] | None = None
    why: str = ""
    refused: str = ""


@dataclass(frozen=True)
class Veto:
    """A match of a rule at or below an attribute of a class is not a block.

    Attributes:
        owner: pattern for ``package.module.Class``.
        attribute: path below the owner; empty for the owner itself.
        why: the reason.
        when: function called for the owner; if it returns false, the veto does not apply.
    """

    owner: str
    attribute: str
    why: str
    when: Callable[[Where], bool] | None = None


@dataclass(frozen=True)
class Remark:
    """Modules of a class that look like an MLP block but match no rule; the reason is written into the ground truth.

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
