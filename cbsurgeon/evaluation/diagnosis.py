"""Why two models differ on the same images: the usual faults of a deployed file, each tried on the first batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cbsurgeon.data import Batch
from cbsurgeon.evaluation.faults import CHANGES, Images
from cbsurgeon.evaluation.side import Side
from cbsurgeon.evaluation.task import Classes
from cbsurgeon.models import Preprocessing

PREPROCESSING, BATCH, CLASSES, INPUT, FINITE, WORSE = (
    "preprocessing",
    "batch-dependent",
    "classes-exchanged",
    "input",
    "not-finite",
    "worse",
)
ROUNDING = {"float16": 3e-2, "bfloat16": 1e-1}
"""Relative L2 difference of outputs that a type's rounding explains in a deep network; ten times what DeiT-S shows."""
FLOAT32 = 2e-3
CLEAR = 10.0
"""A fault is named only where undoing it brings the outputs this many times nearer together."""
_ALONE, _TRIED = 4, 8
"""Images that are run alone, and images that each fault is tried on: two models may differ for good reasons."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        kind: ``preprocessing``, ``batch-dependent``, ``classes-exchanged``, ``input``, ``not-finite`` or ``worse``.
        text: one sentence for people.
    """

    kind: str
    text: str

    def to_dict(self) -> dict[str, str]:
        """JSON form."""
        return {"kind": self.kind, "text": self.text}


def described(a: Side, b: Side, outputs: Mapping[str, Tensor]) -> list[Finding]:
    """A finding for each thing that two preprocessings do differently.

    A network may normalise images itself: other numbers, and the same outputs, are no difference.
    """
    if a.stated is None or b.stated is None:
        return []
    different = a.stated.differences(b.stated)
    same = distance(outputs[a.letter], outputs[b.letter]) <= max(tolerance(a), tolerance(b))
    if same and set(different) <= {"mean", "std", "channels"}:
        return []
    return [
        Finding(PREPROCESSING, f"{name} differs: A {_said(one)}, B {_said(other)}")
        for name, (one, other) in different.items()
    ]


def batch_dependence(side: Side, batch: Batch, together: Tensor) -> list[Finding]:
    """Whether an image's outputs depend on the other images of its batch: the first ones are run alone as well.

    Args:
        side: the model.
        batch: the images.
        together: its outputs for them.
    """
    if side.runtime.only_batch == 1 or len(batch) < 2:
        return []
    inputs = batch.named([port.name for port in side.runtime.inputs], side.view)
    worst = 0.0
    # Where a file takes one batch size only, an image fills a batch by itself, and one has to do.
    for place in range(min(_ALONE, len(batch)) if side.runtime.only_batch is None else 1):
        alone = side.run_inputs({name: tensor[place : place + 1] for name, tensor in inputs.items()})
        worst = max(worst, distance(together[place : place + 1], alone))
    if worst <= tolerance(side):
        return []
    text = f"{side.letter.upper()}'s outputs for an image depend on its batch (relative L2 {worst:.1e})"
    return [Finding(BATCH, text)]


def explained(
    sides: Sequence[Side],
    batch: Batch,
    outputs: Mapping[str, Tensor],
    classes: Classes,
    views: tuple[Preprocessing, ...],
) -> list[Finding]:
    """What B seems to do differently, where one change of its input or outputs brings it back to A.

    Args:
        sides: A and B.
        batch: images.
        outputs: side → its outputs for them.
        classes: which outputs count.
        views: the preprocessings of the batch.
    """
    b = sides[1]
    first, second = (classes.restrict(outputs[side.letter]) for side in sides)
    apart = distance(first, second)
    allowed = max(tolerance(side) for side in sides)
    if apart <= allowed or not second.isfinite().all():
        return []
    if first.dim() == 2:
        found = _exchanged(first, second, apart, allowed)
        if found:
            return found
    inputs = batch.views[b.view] if batch.views else None
    if not isinstance(inputs, Tensor) or not views:
        return []
    wanted, own = (views[side.view] for side in sides)
    if set(wanted.differences(own)) - {"mean", "std"}:
        return []
    images = Images(inputs[:_TRIED], wanted, own)
    (name,) = (port.name for port in b.runtime.inputs)
    apart = distance(first[:_TRIED], second[:_TRIED])
    for words, change in CHANGES.items():
        changed = change(images)
        if changed is None:
            continue
        again = distance(first[:_TRIED], classes.restrict(b.run_inputs({name: changed})))
        if again <= max(allowed, apart / CLEAR):
            return [Finding(INPUT, f"B gives A's outputs when its images {words}")]
    return []


def tolerance(side: Side) -> float:
    """Relative L2 difference that rounding explains."""
    return ROUNDING.get(side.runtime.dtype, FLOAT32)


def distance(a: Tensor, b: Tensor) -> float:
    """Relative L2 distance of outputs; a constant in all of an image's outputs does not make them alike."""
    one, other = a.double().flatten(1), b.double().flatten(1)
    scale = (one - one.mean(1, keepdim=True)).norm() if one.shape[1] > 1 else one.norm()
    apart = (one - other).norm()
    return float(apart / scale) if scale > 0 else float(apart > 0)


def _exchanged(a: Tensor, b: Tensor, apart: float, allowed: float) -> list[Finding]:
    """Classes whose outputs stand in another place."""
    nearest = torch.cdist(b.double().T, a.double().T).argmin(1)
    moved = [(place, int(source)) for place, source in enumerate(nearest.tolist()) if place != source]
    if not moved or len(set(nearest.tolist())) != b.shape[1]:
        return []
    if distance(a, torch.empty_like(b).index_copy(1, nearest, b)) > max(allowed, apart / CLEAR):
        return []
    shown = ", ".join(f"B's output {place} is A's {source}" for place, source in moved[:4])
    return [Finding(CLASSES, f"{len(moved)} classes are exchanged: {shown}{' ...' if len(moved) > 4 else ''}")]


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in value)
    return str(value)
