"""Diagnosing why two models differ on the same images: common mistakes in deployed files, tried on the first batch."""

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
"""Largest relative L2 difference of outputs that is attributed to rounding: ten times that of DeiT-S."""
FLOAT32 = 2e-3
CLEAR = 10.0
"""A mistake is reported only if undoing it makes the difference of the outputs this many times smaller."""
_ALONE, _TRIED = 2, 8
"""Number of images that are run alone, and number of images that each mistake is tried on."""


@dataclass(frozen=True)
class Finding:
    """A fault of a model or of the comparison.

    Attributes:
        kind: ``preprocessing``, ``batch-dependent``, ``classes-exchanged``, ``input``, ``not-finite`` or ``worse``.
        text: one sentence for reports.
    """

    kind: str
    text: str

    def to_dict(self) -> dict[str, str]:
        """JSON form."""
        return {"kind": self.kind, "text": self.text}


def described(a: Side, b: Side, outputs: Mapping[str, Tensor]) -> list[Finding]:
    """Return a finding for each difference between two models' preprocessings.

    A model may normalise images itself. So a different mean, standard deviation or channel order is not a finding if
    the outputs are the same.
    """
    if a.stated is None or b.stated is None:
        return []
    different = a.stated.differences(b.stated)
    same = distance(outputs[a.letter], outputs[b.letter]) <= max(tolerance(a), tolerance(b))
    if same and set(different) <= {"mean", "std", "channels"}:
        return []
    return [
        Finding(PREPROCESSING, f"{name} differs: A {_shown(one)}, B {_shown(other)}")
        for name, (one, other) in different.items()
    ]


def batch_dependence(side: Side, batch: Batch, together: Tensor) -> list[Finding]:
    """Return a finding if an image's outputs depend on the other images of its batch; some images are run alone.

    Args:
        side: the model.
        batch: the images.
        together: its outputs for the whole batch.
    """
    if side.runtime.only_batch == 1 or len(batch) < 2:
        return []
    inputs = batch.named([port.name for port in side.runtime.inputs], side.view, where=side.name)
    worst = 0.0
    # With a fixed batch size, each image costs a whole batch, so only one is run alone.
    for index in range(min(_ALONE, len(batch)) if side.runtime.only_batch is None else 1):
        alone = side.run_inputs({name: tensor[index : index + 1] for name, tensor in inputs.items()})
        worst = max(worst, distance(together[index : index + 1], alone))
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
    """Return the mistake in B that explains its difference from A: undoing it makes the outputs equal.

    Args:
        sides: A and B.
        batch: the images.
        outputs: ``a`` or ``b`` → outputs for the images.
        classes: which outputs are evaluated.
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
    """Return the relative L2 difference explained by rounding in a model's dtype."""
    return ROUNDING.get(side.runtime.dtype, FLOAT32)


def distance(a: Tensor, b: Tensor) -> float:
    """Return the relative L2 distance of outputs, relative to their deviation from each image's mean output."""
    one, other = a.double().flatten(1), b.double().flatten(1)
    scale = (one - one.mean(1, keepdim=True)).norm() if one.shape[1] > 1 else one.norm()
    apart = (one - other).norm()
    return float(apart / scale) if scale > 0 else float(apart > 0)


def _exchanged(a: Tensor, b: Tensor, apart: float, allowed: float) -> list[Finding]:
    """Return a finding if B's outputs are A's in another order."""
    nearest = torch.cdist(b.double().T, a.double().T).argmin(1)
    moved = [(index, int(source)) for index, source in enumerate(nearest.tolist()) if index != source]
    if not moved or len(set(nearest.tolist())) != b.shape[1]:
        return []
    if distance(a, torch.empty_like(b).index_copy(1, nearest, b)) > max(allowed, apart / CLEAR):
        return []
    shown = ", ".join(f"B's output {index} is A's {source}" for index, source in moved[:4])
    return [Finding(CLASSES, f"{len(moved)} classes are exchanged: {shown}{' ...' if len(moved) > 4 else ''}")]


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in value)
    return str(value)
