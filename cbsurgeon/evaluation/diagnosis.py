"""Why two models differ on the same images: the usual faults of a deployed file, each tried on the first batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cbsurgeon.data import Batch
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
_ALONE = 4


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


def described(a: Preprocessing | None, b: Preprocessing | None) -> list[Finding]:
    """A finding for each thing that two preprocessings do differently."""
    if a is None or b is None:
        return []
    return [
        Finding(PREPROCESSING, f"{name} differs: A {_said(one)}, B {_said(other)}")
        for name, (one, other) in a.differences(b).items()
    ]


def batch_dependence(side: Side, batch: Batch) -> list[Finding]:
    """Whether an image's outputs depend on the other images of its batch: the first ones are run alone as well."""
    if side.runtime.only_batch == 1 or len(batch) < 2:
        return []
    inputs = batch.named([port.name for port in side.runtime.inputs], side.view)
    together = side.run_inputs(inputs)
    worst = 0.0
    for place in range(min(_ALONE, len(batch))):
        # Where a file takes one batch size only, the image fills the batch by itself.
        alone = side.run_inputs({name: tensor[place : place + 1] for name, tensor in inputs.items()})
        worst = max(worst, distance(together[place : place + 1], alone))
    if worst <= tolerance(side):
        return []
    text = f"{side.letter.upper()}'s outputs for an image depend on its batch (relative L2 {worst:.1e})"
    return [Finding(BATCH, text)]


def explained(a: Side, b: Side, batch: Batch, classes: Classes, views: tuple[Preprocessing, ...]) -> list[Finding]:
    """What B seems to do differently, where one change of its input or outputs brings it back to A."""
    first, second = (classes.restrict(side.run(batch)) for side in (a, b))
    apart = distance(first, second)
    allowed = max(tolerance(a), tolerance(b))
    if apart <= allowed or not second.isfinite().all():
        return []
    if first.dim() == 2:
        found = _exchanged(first, second, apart, allowed)
        if found:
            return found
    inputs = batch.views[b.view] if batch.views else None
    if not isinstance(inputs, Tensor) or not views:
        return []
    view = views[b.view]
    names = [port.name for port in b.runtime.inputs]
    for words, change in _CHANGES.items():
        changed = change(inputs, view)
        if changed is None:
            continue
        moved = replace(batch, views=tuple(changed for _ in batch.views)).named(names)
        again = distance(first, classes.restrict(b.run_inputs(moved)))
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


def _numbers(view: Preprocessing) -> tuple[Tensor, Tensor]:
    return torch.tensor(view.mean)[:, None, None], torch.tensor(view.std)[:, None, None]


def _swapped(images: Tensor, view: Preprocessing) -> Tensor:
    mean, std = _numbers(view)
    return (images * std + mean - std) / mean if bool((mean > 0).all()) else images


def _flipped(images: Tensor, view: Preprocessing) -> Tensor | None:
    return images.flip(1) if images.shape[1] == 3 else None


_CHANGES: dict[str, Callable[[Tensor, Preprocessing], Tensor | None]] = {
    "have their channels in reverse order (BGR for RGB)": _flipped,
    "are not normalised (values from 0 to 1)": lambda images, view: images * _numbers(view)[1] + _numbers(view)[0],
    "are not normalised (values from 0 to 255)": lambda images, view: (
        (images * _numbers(view)[1] + _numbers(view)[0]) * 255
    ),
    "are normalised with mean and standard deviation exchanged": _swapped,
    "are normalised twice": lambda images, view: (images - _numbers(view)[0]) / _numbers(view)[1],
    "are mirrored": lambda images, view: images.flip(3),
    "have height and width exchanged": lambda images, view: (
        images.transpose(2, 3) if images.shape[2] == images.shape[3] else None
    ),
}
"""What is done to B's images → how."""


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in value)
    return str(value)
