"""Computing the records of each image: the numbers of every metric, predictions, and the difference of two models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cbsurgeon.evaluation.metrics import Metric
from cbsurgeon.evaluation.task import Classes, check_labels

AGREEMENT, DISTANCE, MARGIN, LABEL = "agreement", "distance", "margin", "label"


@dataclass(frozen=True)
class Plan:
    """What an evaluation records.

    Attributes:
        task: the task; ``None`` if the dataset has no labels and the user named no task.
        metrics: the metrics; empty without labels.
        classes: which outputs are evaluated.
        where: the dataset, for error messages.
    """

    task: str | None
    metrics: Sequence[Metric]
    classes: Classes
    where: str


def columns(plan: Plan, outputs: Mapping[str, Tensor], labels: Tensor | None) -> dict[str, Tensor]:
    """Return the records of one batch: column → ``[batch, numbers]``.

    Args:
        plan: what is recorded.
        outputs: ``a`` or ``b`` → outputs, ``[batch, ...]``.
        labels: labels of the batch.

    Raises:
        UsageError: a label is not a class of the models (``CB-EVAL-03``).
    """
    found: dict[str, Tensor] = {}
    targets = None
    if labels is not None and plan.task is not None:
        check_labels(labels, plan.task, plan.classes.count, plan.where)
        targets = labels.to(torch.int64)
        if plan.task == "classification":
            found[LABEL] = targets[:, None]
    restricted = {letter: _usable_form(plan, given, labels) for letter, given in outputs.items()}
    for letter, given in restricted.items():
        finite = given.flatten(1).isfinite().all(1)
        usable = given if finite.all() else torch.where(_like(finite, given), given, 0.0)
        found[f"{letter}/finite"] = finite[:, None]
        if usable.dim() == 2:
            found[f"{letter}/prediction"] = usable.argmax(1, keepdim=True)
        for metric, records in _records(plan, usable, finite, targets).items():
            found[f"{letter}/{metric}"] = records
    if "b" in restricted:
        found |= _compared(restricted["a"], restricted["b"], plan.task)
    return found


def records_of(plan: Plan, outputs: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    """Return the records of every metric for one model: name → ``[batch, numbers]``."""
    given = _usable_form(plan, outputs, labels)
    finite = given.flatten(1).isfinite().all(1)
    usable = given if finite.all() else torch.where(_like(finite, given), given, 0.0)
    return _records(plan, usable, finite, None if labels is None else labels.to(torch.int64))


def _usable_form(plan: Plan, outputs: Tensor, labels: Tensor | None) -> Tensor:
    """Return the outputs of the evaluated classes; maps are resized to their labels by bilinear interpolation."""
    given = plan.classes.restrict(outputs)
    if given.dim() == 4 and labels is not None and given.shape[2:] != labels.shape[1:]:
        return interpolate(given, tuple(labels.shape[1:]), mode="bilinear", align_corners=False)
    return given


def _records(plan: Plan, usable: Tensor, finite: Tensor, targets: Tensor | None) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for metric in plan.metrics:
        assert targets is not None, "metrics are planned only with labels"
        records = metric.record(usable, targets).double()
        found[metric.name] = records if finite.all() else torch.where(finite[:, None], records, metric.lost(records))
    return found


def _compared(a: Tensor, b: Tensor, task: str | None) -> dict[str, Tensor]:
    """Return agreement of the predictions, distance of the outputs, and the margin in A of changed predictions."""
    distance = torch.stack([(b - a).flatten(1).double().square().sum(1), _spread(a)], 1)
    if task == "multilabel":
        agree = ((a > 0) == (b > 0)).double().mean(1, keepdim=True)
        return {AGREEMENT: agree, DISTANCE: distance}
    same = a.argmax(1) == b.argmax(1)
    if same.dim() > 1:
        return {AGREEMENT: same.flatten(1).double().mean(1, keepdim=True), DISTANCE: distance}
    margin = a.gather(1, a.argmax(1, keepdim=True)) - a.gather(1, b.argmax(1, keepdim=True))
    return {AGREEMENT: same[:, None].double(), DISTANCE: distance, MARGIN: margin}


def _spread(outputs: Tensor) -> Tensor:
    """Return the squared distance of each image's outputs from their mean, so that a constant offset has no effect."""
    flat = outputs.double().flatten(1)
    return (flat - flat.mean(1, keepdim=True)).square().sum(1)


def _like(mask: Tensor, other: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (other.dim() - 1))
