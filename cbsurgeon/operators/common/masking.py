"""The padding mask of a forward pass: how it reaches operators deep inside a module, and how its values are read."""

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
"""How a mask marks a token. *nonzero*: by a value other than zero. *zero*: by zero, so that true marks padding. *open*:
the mask is added to attention scores, and a large negative number marks padding."""

CLOSED = -1000.0
"""In an *open* mask, numbers below this mark padding. Such masks hold 0, and -10,000, the type's minimum or -inf."""

REMEMBERED = 16
"""Number of forward passes whose masks are kept for gradient checkpointing, which repeats layers during backward."""

_PRINTS = 64
"""Number of values of a tensor that are kept to recognise the tensor later."""

_COMPILED = 0
"""Used in place of the thread's id in compiled code, where calls do not share state."""


class Masking:
    """Gives the mask of a forward pass to every operator inside one module.

    A forward pre-hook of the module (:meth:`hand`) takes the mask from the arguments, and a forward hook
    (:meth:`clear`) drops it; in between, the operators inside the module read it. Each thread has its own mask
    (``DataParallel`` runs its replicas in threads that share this object).

    Gradient checkpointing runs layers a second time after the forward pass. Such a call is recognised by its values,
    which equal those of the first call bit by bit. If that does not identify the call, an error is raised.

    Args:
        input: name of the parameter of the module's ``forward`` that takes the mask.
        valid: which values mark a token.
        module: path of that module in the model it was found in; for messages.
        place: index of the parameter among positional arguments, if it can be passed by position.
        rows: the mask has one row of keys per query, all equal: ``[batch, ..., tokens]``.
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
        """Copies and pickles keep the configuration, not the masks of a forward pass."""
        return {key: value for key, value in self.__dict__.items() if key not in ("now", "past")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """A copy starts without a mask."""
        self.__dict__.update(state)
        self._forget()

    def hand(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Forward pre-hook: take the mask from the arguments; without one, nothing is padding."""
        given = kwargs.get(self.input)
        if given is None and self.place is not None and self.place < len(args):
            given = args[self.place]
        if given is not None and not isinstance(given, Tensor):
            raise _invalid_mask(self, f"it is a {type(given).__name__}, not a tensor")
        self.now[_key()] = (given, torch.is_grad_enabled())

    def clear(self, module: nn.Module, args: Any, output: Any) -> None:
        """Forward hook: drop the mask."""
        self.now.pop(_key(), None)

    @contextmanager
    def given(self, mask: Tensor | None) -> Iterator[None]:
        """Context manager: operators that run inside it get this mask."""
        self.now[_key()] = (mask, False)
        try:
            yield
        finally:
            self.now.pop(_key(), None)

    def hidden(self, x: Tensor, batch_axis: int, token_axis: int, site: str) -> Tensor | None:
        """Return a mask that is true at the padding of ``x`` and broadcasts to it; ``None`` if no mask was given.

        Raises:
            SurgeryError: the module is not running its forward pass (CB-LEAK-07), or the mask does not have one value
                per sample and token (CB-LEAK-08).
        """
        given = self._find(x, site)
        if given is None:
            return None
        mask = given
        while mask.dim() > 2 and (self.rows or mask.shape[1] == 1):
            mask = mask.select(1, 0)
        fits = mask.dim() == 2 and mask.shape[1] == x.shape[token_axis]
        if not fits or (mask.shape[0] != x.shape[batch_axis] and mask.shape[0] != 1):
            raise _invalid_mask(self, f"its shape is {list(given.shape)}, and the tensor's {list(x.shape)}")
        return _aligned(self._padding(mask), x.dim(), batch_axis % x.dim(), token_axis % x.dim())

    def _padding(self, mask: Tensor) -> Tensor:
        if self.valid == "open":
            return mask < CLOSED
        return mask == 0 if self.valid == "nonzero" else mask != 0

    def _find(self, x: Tensor, site: str) -> Tensor | None:
        if torch.compiler.is_compiling():
            entries = list(self.now.values())
            if len(entries) != 1:
                raise _no_mask(self, site)
            return entries[0][0]
        entry = self.now.get(_key())
        if entry is None:
            return self._recomputed(x, site)
        mask, learning = entry
        if learning:
            self.past[site].append((_fingerprint(x), mask))
        return mask

    def _recomputed(self, x: Tensor, site: str) -> Tensor | None:
        """The mask of the earlier forward pass in which this operator got the same values."""
        own = _fingerprint(x)
        same = [
            mask
            for seen, mask in self.past.get(site, ())
            if seen.shape == own.shape and seen.dtype == own.dtype and torch.equal(seen.to(own.device), own)
        ]
        if not same or any(not _equal(mask, same[0]) for mask in same):
            raise _no_mask(self, site)
        return same[0] if same[0] is None else same[0].to(x.device)


def _key() -> int:
    return _COMPILED if torch.compiler.is_compiling() else threading.get_ident()


def _fingerprint(x: Tensor) -> Tensor:
    """Evenly spaced values of a tensor, to recognise it by."""
    flat = x.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _PRINTS)].clone()


def _equal(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.shape == second.shape and torch.equal(first, second.to(first.device))


def _aligned(hidden: Tensor, rank: int, batch_axis: int, token_axis: int) -> Tensor:
    """Return ``[batch, tokens]`` with its axes moved to those of the tensor, and axes of size 1 elsewhere."""
    if batch_axis > token_axis:
        hidden = hidden.transpose(0, 1)
    for axis in range(rank):
        if axis not in (batch_axis, token_axis):
            hidden = hidden.unsqueeze(axis)
    return hidden


def _no_mask(masking: Masking, site: str) -> SurgeryError:
    owner = masking.module or "the model"
    return SurgeryError(
        f"no mask reached the operator at {site or 'its site'}",
        code="CB-LEAK-07",
        where=f"input {masking.input} of {owner}",
        why=f"it runs outside the forward() of {owner}, which provides the mask, and is not a recomputation (gradient "
        f"checkpointing) of one of the last {REMEMBERED} passes",
        do=f"call {owner} itself, not a part of it; with gradient checkpointing, run the backward pass before many "
        "other forward passes",
    )


def _invalid_mask(masking: Masking, why: str) -> SurgeryError:
    return SurgeryError(
        f"the mask {masking.input} does not mark padding per token",
        code="CB-LEAK-08",
        where=f"input {masking.input} of {masking.module or 'the model'}",
        why=why,
        do="give it as [batch, tokens], one value per token of the sequence",
    )
