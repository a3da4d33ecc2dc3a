"""The padding mask of a forward pass: how an operator deep inside a module comes by it, and how it is read."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cbsurgeon.errors import SurgeryError

Valid = Literal["nonzero", "zero", "open"]
VALID: tuple[Valid, ...] = ("nonzero", "zero", "open")
"""What marks a token in a mask: a value other than zero; zero (true is padding); or *open*, a mask that is added to
attention scores, where a large negative number marks padding."""

CLOSED = -1000.0
"""Numbers below it in an *open* mask hide. Masks hold 0 and -10,000, the type's minimum or minus infinity."""

REMEMBERED = 16
"""Forward passes whose mask is kept for gradient checkpointing, which repeats parts of them during backward."""

_PRINTS = 64
"""Values of a tensor that are kept to know it again."""

_COMPILED = 0
"""Stands for the thread in compiled code, where nothing is shared between calls."""


class Masking:
    """Where the mask of a forward pass is, for every operator below one module.

    The module's forward pre-hook (:meth:`hand`) takes it from the arguments, its forward hook (:meth:`clear`) lets go
    of it; between the two the operators below ask for it. Threads do not see each other's (``DataParallel`` runs its
    replicas in threads, and they share this object).

    Gradient checkpointing runs layers a second time when the forward pass is over. Such a call is recognised by its
    values, which are those of the first time bit by bit; where that is not certain it is an error, never a guess.

    Args:
        input: name of the parameter of the module's ``forward`` that takes the mask.
        valid: what marks a token in it.
        module: path of that module in the model it was found in; for people.
        place: index of the parameter among positional arguments, where it can be given so.
        rows: the mask has a row of keys per query, all alike: ``[batch, ..., tokens]``.
    """

    def __init__(
        self,
        input: str = "mask",
        valid: Valid = "nonzero",
        module: str = "",
        place: int | None = None,
        *,
        rows: bool = False,
    ) -> None:
        if valid not in VALID:
            raise ValueError(f"valid is {valid!r}, not one of {', '.join(VALID)}")
        self.input, self.valid, self.module, self.place, self.rows = input, valid, module, place, rows
        self._forget()

    def _forget(self) -> None:
        self.now: dict[int, tuple[Tensor | None, bool]] = {}
        self.past: dict[str, deque[tuple[Tensor, Tensor | None]]] = defaultdict(lambda: deque(maxlen=REMEMBERED))

    def __getstate__(self) -> dict[str, Any]:
        """Copies and files take the tie, not the masks of a pass."""
        return {key: value for key, value in self.__dict__.items() if key not in ("now", "past")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """A copy begins without a mask."""
        self.__dict__.update(state)
        self._forget()

    def hand(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Forward pre-hook: take the mask from the arguments; none given means that everything is a token."""
        given = kwargs.get(self.input)
        if given is None and self.place is not None and self.place < len(args):
            given = args[self.place]
        if given is not None and not isinstance(given, Tensor):
            raise _unfit(self, f"it is a {type(given).__name__}, not a tensor")
        self.now[_key()] = (given, torch.is_grad_enabled())

    def clear(self, module: nn.Module, args: Any, output: Any) -> None:
        """Forward hook: let go of the mask."""
        self.now.pop(_key(), None)

    @contextmanager
    def given(self, mask: Tensor | None) -> Iterator[None]:
        """Operators that run inside see this mask."""
        self.now[_key()] = (mask, False)
        try:
            yield
        finally:
            self.now.pop(_key(), None)

    def hidden(self, x: Tensor, batch_axis: int, token_axis: int, site: str) -> Tensor | None:
        """True where ``x`` holds padding, broadcastable to it; ``None`` where no mask was given.

        Raises:
            SurgeryError: no forward pass of the module is under way (CB-LEAK-07), or the mask is not one value per
                sample and token (CB-LEAK-08).
        """
        given = self._find(x, site)
        if given is None:
            return None
        mask = given
        while mask.dim() > 2 and (self.rows or mask.shape[1] == 1):
            mask = mask.select(1, 0)
        fits = mask.dim() == 2 and mask.shape[1] == x.shape[token_axis]
        if not fits or (mask.shape[0] != x.shape[batch_axis] and mask.shape[0] != 1):
            raise _unfit(self, f"its shape is {list(given.shape)}, and the tensor's {list(x.shape)}")
        return _laid_over(self._padding(mask), x.dim(), batch_axis % x.dim(), token_axis % x.dim())

    def _padding(self, mask: Tensor) -> Tensor:
        if self.valid == "open":
            return mask < CLOSED
        return mask == 0 if self.valid == "nonzero" else mask != 0

    def _find(self, x: Tensor, site: str) -> Tensor | None:
        if torch.compiler.is_compiling():
            entries = list(self.now.values())
            if len(entries) != 1:
                raise _not_handed(self, site)
            return entries[0][0]
        entry = self.now.get(_key())
        if entry is None:
            return self._again(x, site)
        mask, learning = entry
        if learning:
            self.past[site].append((_print(x), mask))
        return mask

    def _again(self, x: Tensor, site: str) -> Tensor | None:
        """The mask of the pass in which this operator saw the same values."""
        own = _print(x)
        same = [
            mask
            for seen, mask in self.past.get(site, ())
            if seen.shape == own.shape and seen.dtype == own.dtype and torch.equal(seen.to(own.device), own)
        ]
        if not same or any(not _equal(mask, same[0]) for mask in same):
            raise _not_handed(self, site)
        return same[0] if same[0] is None else same[0].to(x.device)


def _key() -> int:
    return _COMPILED if torch.compiler.is_compiling() else threading.get_ident()


def _print(x: Tensor) -> Tensor:
    """A few values from all over a tensor."""
    flat = x.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _PRINTS)].clone()


def _equal(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.shape == second.shape and torch.equal(first, second.to(first.device))


def _laid_over(hidden: Tensor, rank: int, batch_axis: int, token_axis: int) -> Tensor:
    """``[batch, tokens]`` with its axes where the tensor has them and axes of size 1 elsewhere."""
    if batch_axis > token_axis:
        hidden = hidden.transpose(0, 1)
    for axis in range(rank):
        if axis not in (batch_axis, token_axis):
            hidden = hidden.unsqueeze(axis)
    return hidden


def _not_handed(masking: Masking, site: str) -> SurgeryError:
    owner = masking.module or "the model"
    return SurgeryError(
        f"no mask reached the operator at {site or 'its site'}",
        code="CB-LEAK-07",
        where=f"input {masking.input} of {owner}",
        why=f"it runs outside the forward() of {owner}, whose hook hands the mask on, and not as a repetition of it "
        f"(gradient checkpointing) that can be told from its last {REMEMBERED} passes",
        do=f"call {owner} itself, not a part of it; with gradient checkpointing, go backward before many other passes",
    )


def _unfit(masking: Masking, why: str) -> SurgeryError:
    return SurgeryError(
        f"the mask {masking.input} does not say which tokens are padding",
        code="CB-LEAK-08",
        where=f"input {masking.input} of {masking.module or 'the model'}",
        why=why,
        do="give it as [batch, tokens], one value per token of the sequence",
    )
