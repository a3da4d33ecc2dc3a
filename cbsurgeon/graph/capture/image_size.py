"""Capture a model for images of any size: with height and width symbolic in addition to the batch."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim
from torch.utils import _pytree as pytree

from cbsurgeon.errors import CaptureError, pass_out_of_memory
from cbsurgeon.graph.capture.copying import without_compiled
from cbsurgeon.graph.capture.exporting import by_parameter, named, traced
from cbsurgeon.graph.capture.whole import compare, refuse_training, two_samples
from cbsurgeon.graph.program import Program
from cbsurgeon.models.model import Model

IMAGE_AXES = 4
"""Batch, channels, height and width, in this order."""

OTHER_SIZE = (2, 3)
"""Factors of the example's height and width that give the second size, at which program and model are compared. The
second size has all divisors of the example's size; its height and width differ from each other and from the
example's."""

_DO = "leave --dynamic-size out: one file per size works"


def capture_dynamic_size(model: Model) -> Program:
    """Capture a model with batch, height and width of its image inputs symbolic, and compare it at another size.

    Args:
        model: a module with example inputs; a program is refused.

    Raises:
        CaptureError: the model cannot be captured with these axes symbolic (CB-CAPTURE-07); or as in
            :func:`cbsurgeon.graph.capture.capture`.
    """
    reference = model.provenance.reference
    if model.program is not None:
        raise _refused(reference, "a captured program keeps the size it was captured at", "export from the module")
    model = without_compiled(model)
    module = model.module
    args, kwargs = two_samples(module, model)[0] if module is not None else ((), {})
    if module is None or not any(is_image(leaf) for leaf in pytree.tree_leaves((args, kwargs))):
        raise _refused(reference, "no input has the four axes of images", "leave --dynamic-size out")
    refuse_training(module, reference)
    shapes = (pytree.tree_map(_open, args), pytree.tree_map(_open, kwargs))
    try:
        program = named(traced(module, args, kwargs, by_parameter(module, *shapes)))
    except Exception as error:
        raise _refused(reference, _reason(str(error)), _DO) from error
    try:
        compare(module, program, resized(args), resized(kwargs), reference)
    except CaptureError:
        raise
    except Exception as error:  # forward() may work only for sizes close to the example's
        pass_out_of_memory(error)
        why = f"at another size the model fails: {' '.join(str(error).split())[:200]}"
        raise _refused(reference, f"{why}; position embeddings of one size do this", _DO) from error
    return program


def resized(inputs: Any) -> Any:
    """Return inputs with images of another size; every call returns the same values."""
    generator = torch.Generator().manual_seed(0)

    def other(leaf: Any) -> Any:
        if not is_image(leaf):
            return leaf
        sizes = (size * times for size, times in zip(leaf.shape[2:], OTHER_SIZE, strict=True))
        return torch.randn(*leaf.shape[:2], *sizes, generator=generator).to(leaf.dtype)

    return pytree.tree_map(other, inputs)


def is_image(leaf: Any) -> bool:
    """Whether an input is a batch of images."""
    return isinstance(leaf, Tensor) and leaf.dim() == IMAGE_AXES and leaf.is_floating_point()


def _open(leaf: Any) -> dict[int, Any] | None:
    if not isinstance(leaf, Tensor) or not leaf.dim():
        return None
    return dict.fromkeys((0, 2, 3) if is_image(leaf) else (0,), Dim.DYNAMIC)


def _reason(text: str) -> str:
    """Why torch.export failed: the sizes that the model's code fixes, or the beginning of the message."""
    fixed = re.findall(r"specialized it to be a constant \((\d+)\)", text)
    if fixed:
        sizes = " and ".join(dict.fromkeys(fixed))
        return f"the model's code fixes the size at {sizes}, as position embeddings, windows and token mixers do"
    return " ".join(text.split())[:300]


def _refused(reference: str, why: str, do: str) -> CaptureError:
    return CaptureError("height and width cannot be dynamic", code="CB-CAPTURE-07", where=reference, why=why, do=do)
