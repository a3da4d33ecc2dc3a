"""The expected inspection of a hand-written network, written in the same file as the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from cbsurgeon.models.model import Model, Provenance

Inputs = Callable[[], tuple[Any, ...]]

# Sizes that coincide with nothing: batch 2, tokens 5, channels 8, hidden 12. Files that make them coincide say so.
BATCH, TOKENS, WIDTH, HIDDEN = 2, 5, 8, 12


@dataclass(frozen=True)
class Want:
    """One expected block.

    Attributes:
        fc1, fc2: module paths; a path ending in ``.*`` stands for that module or anything inside it, and ``()`` for a
            projection that has no module of its own.
        tokens, channel, batch: axes of the End tensor.
        default, calls, kind: as in :class:`cbsurgeon.graph.Block`.
        stack: label; blocks with the same label share a stack, blocks with different labels do not.
        unavailable: positions where no operator can stand; every other one must have a site.
        end: module whose output is the End tensor, number for number (reshapes aside); ``None`` where there is none.
        front, mid: module whose input is that tensor; ``None`` where there is none.
    """

    fc1: tuple[str, ...]
    fc2: tuple[str, ...]
    kind: str = "mlp"
    tokens: tuple[int, ...] = (1,)
    channel: int = 2
    batch: tuple[int, ...] = (0,)
    default: bool = True
    calls: int = 1
    stack: int = 0
    unavailable: tuple[str, ...] = ()
    end: str | None = None
    front: str | None = None
    mid: str | None = None


@dataclass(frozen=True)
class Refusal:
    """One expected rejection: its reason code and the module it concerns (or one inside that module)."""

    reason: str
    path: str


@dataclass(frozen=True)
class Case:
    """A network, how to run it, and what inspecting it must yield.

    Attributes:
        attention: module path of each attention branch's last projection in graph order; ``""`` where it has no
            module, ``None`` where the case says nothing about attention.
        training: captured in training mode and handed over as a program, so that drop path is in the graph.
    """

    name: str
    trap: str
    build: Callable[[], nn.Module]
    inputs: Inputs
    kwargs: Callable[[], dict[str, Any]]
    blocks: tuple[Want, ...]
    rejected: tuple[Refusal, ...]
    attention: tuple[str, ...] | None
    training: bool

    def module(self) -> nn.Module:
        """The network with the same random weights every time."""
        torch.manual_seed(0)
        return self.build().train(self.training)

    def model(self) -> Model:
        """The network as the finder gets it."""
        module, provenance = self.module(), Provenance(reference=self.name)
        if not self.training:
            return Model(module, self.arguments(), provenance, self.kwargs())
        return Model(None, program=export_in_training(module, self.arguments()), provenance=provenance)

    def arguments(self) -> tuple[Any, ...]:
        """Example inputs, the same every time."""
        torch.manual_seed(1)
        return self.inputs()


CASES: dict[str, Case] = {}


def network(
    *shape: int,
    inputs: Inputs | None = None,
    kwargs: Callable[[], dict[str, Any]] = dict,
    blocks: tuple[Want, ...] = (),
    rejected: tuple[Refusal, ...] = (),
    attention: tuple[str, ...] | None = (),
    training: bool = False,
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Enter a network class into the table: its docstring names the trap, the arguments say what must come out."""

    def enter(cls: type[nn.Module]) -> type[nn.Module]:
        assert cls.__doc__, f"{cls.__name__} does not name its trap"
        assert cls.__name__ not in CASES, f"{cls.__name__} stands in the table twice"
        make = inputs or (lambda: (torch.randn(shape),))
        trap = cls.__doc__
        CASES[cls.__name__] = Case(cls.__name__, trap, cls, make, kwargs, blocks, rejected, attention, training)
        return cls

    return enter


def mlp(path: str, fc1: str = "fc1", fc2: str = "fc2", **changes: Any) -> Want:
    """The expectation for one MLP module with two projection modules."""
    first, last = f"{path}.{fc1}", f"{path}.{fc2}"
    return replace(Want((first,), (last,), end=last, front=first, mid=last), **changes)


def token_mlp(path: str, **changes: Any) -> Want:
    """The expectation for a token-mixing MLP on (B, C, N): tokens are what it contracts, chosen only on request.

    There is no Mid: the hidden axis holds units made of all tokens, and no axis of that tensor is a token axis.
    """
    want = mlp(path, kind="token-mlp", tokens=(2,), channel=1, default=False, unavailable=("mid",), mid=None)
    return replace(want, **changes)


def each(depth: int, path: str, make: Callable[[str], Want]) -> tuple[Want, ...]:
    """The same expectation for ``depth`` blocks; ``{}`` in the path becomes the block's number."""
    return tuple(make(path.format(i)) for i in range(depth))


def export_in_training(module: nn.Module, args: tuple[Any, ...]) -> torch.export.ExportedProgram:
    """A program captured in training mode, batch symbolic: what ``capture`` refuses to make, but a file may hold."""
    batch = Dim("batch", min=2)
    shapes = tuple({0: batch} if isinstance(arg, Tensor) else None for arg in args)
    return torch.export.export(module, args, dynamic_shapes=shapes, strict=False)
