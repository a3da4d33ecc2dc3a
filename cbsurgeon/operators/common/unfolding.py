"""Axes that hold both samples and tokens: split before an operator runs, joined again after it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cbsurgeon.errors import SurgeryError
from cbsurgeon.operators.common.fields import Fields

_COMPILED = 0
"""Used in place of the thread's id in compiled code, where calls do not share state."""


@dataclass(frozen=True)
class Unfold:
    """How the axis that holds samples and tokens is split: ``[B * N, C]`` becomes ``[B, N, C]``.

    Attributes:
        axis: the shared axis.
        before, after: number of tokens that vary more slowly and faster than the samples along the axis; 1 for none.
        module: path of a module whose output has the same samples and tokens on separate axes. When the model runs, the
            shape of that output gives their numbers. Empty if there is no such module.
        samples: axis of the samples in that output.
        before_axes, after_axes: axes of the tokens in that output.
    """

    axis: int
    before: int
    after: int
    module: str = ""
    samples: int = 0
    before_axes: tuple[int, ...] = ()
    after_axes: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "axis": self.axis,
            "before": self.before,
            "after": self.after,
            "module": self.module,
            "samples": self.samples,
            "before_axes": list(self.before_axes),
            "after_axes": list(self.after_axes),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Unfold:
        """Read the JSON form.

        Raises:
            ValueError: a field is missing, unknown or of another type.
        """
        fields = Fields(document, "the unfolding of a site")
        unfold = cls(
            fields.whole("axis"),
            fields.whole("before"),
            fields.whole("after"),
            fields.text("module", ""),
            fields.whole("samples", 0),
            fields.wholes("before_axes", ()),
            fields.wholes("after_axes", ()),
        )
        fields.finish()
        return unfold

    def parts(self, samples: int, before: int, after: int) -> list[int]:
        """Return the sizes that the shared axis is split into; an axis without tokens is left out."""
        return [*([before] if self.before > 1 else []), samples, *([after] if self.after > 1 else [])]


class Unfolding:
    """Hooks of an operator that split the shared axis of its input and join it in its output.

    The numbers of samples and tokens come from the output of a module that ran before (:meth:`see` is its forward
    hook), so that other batch sizes and sequence lengths are split correctly. Without such a module, as in a captured
    program, the number of tokens is that of the capture.

    Args:
        unfold: which axis, and how.
    """

    def __init__(self, unfold: Unfold) -> None:
        self.unfold = unfold
        self.now: dict[int, tuple[Any, Any, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles do not keep the sizes of a forward pass."""
        return {"unfold": self.unfold}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """A copy starts without sizes."""
        self.__dict__.update(state)
        self.now = {}

    def see(self, module: nn.Module, args: Any, output: Any) -> None:
        """Forward hook of :attr:`Unfold.module`: record how many samples and tokens its output has."""
        shape, own = _first(output).shape, self.unfold
        self.now[_key()] = (shape[own.samples], _count(shape, own.before_axes), _count(shape, own.after_axes))

    def split(self, operator: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Forward pre-hook of the operator: put samples and tokens on separate axes.

        Raises:
            SurgeryError: the module that gives the sizes did not run before, or its sizes do not match the tensor
                (CB-SURGERY-10).
        """
        x, axis = args[0], self.unfold.axis
        parts = self.unfold.parts(-1, self.unfold.before, self.unfold.after)
        if self.unfold.module:
            sizes = self.now.get(_key())
            if sizes is None or sizes[0] * sizes[1] * sizes[2] != x.shape[axis]:
                raise _unknown_sizes(self.unfold, x, sizes)
            parts = self.unfold.parts(*sizes)
        return (x.reshape(*x.shape[:axis], *parts, *x.shape[axis + 1 :]), *args[1:])

    def join(self, operator: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook of the operator: restore the shared axis."""
        axis, count = self.unfold.axis, len(self.unfold.parts(-1, self.unfold.before, self.unfold.after))
        return output.reshape(*output.shape[:axis], -1, *output.shape[axis + count :])


def _count(shape: Any, axes: tuple[int, ...]) -> Any:
    count = 1
    for axis in axes:  # a loop, because torch.compile cannot trace a generator of symbolic sizes
        count = count * shape[axis]
    return count


def _first(output: Any) -> Tensor:
    found = next((leaf for leaf in torch.utils._pytree.tree_leaves(output) if hasattr(leaf, "shape")), None)
    assert found is not None  # the graph showed a tensor there
    return found  # type: ignore[no-any-return]


def _key() -> int:
    return _COMPILED if torch.compiler.is_compiling() else threading.get_ident()


def _unknown_sizes(unfold: Unfold, x: Tensor, sizes: tuple[Any, ...] | None) -> SurgeryError:
    seen = f"its sizes of samples and tokens are {sizes}" if sizes is not None else "that module has not run"
    return SurgeryError(
        f"samples and tokens of a tensor of shape {list(x.shape)} cannot be separated",
        code="CB-SURGERY-10",
        where=f"axis {unfold.axis}; its sizes come from the output of {unfold.module}",
        why=f"{seen}, and the product must be {x.shape[unfold.axis]}",
        do="run the whole block, not a part of it, and give every sample the same number of tokens",
    )
