"""Running models on the corrupted and attacked images of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cbsurgeon.data import Batch
from cbsurgeon.data.corruptions import CORRUPTIONS, generators, occluded
from cbsurgeon.errors import UsageError
from cbsurgeon.evaluation.records.recording import Plan, records_of
from cbsurgeon.evaluation.robustness.attacks import attacked
from cbsurgeon.evaluation.robustness.stress import Stress
from cbsurgeon.evaluation.side import Side
from cbsurgeon.models import Preprocessing

_WITHOUT = "leave out --robust, or the attacks in it"


class Stressed:
    """Runs models on corrupted and attacked images.

    Args:
        wanted: the corruptions and attacks.
        sides: the models.
        views: the preprocessings of the batches.
        plan: what is recorded.

    Raises:
        UsageError: there are no images or labels, or a gradient attack has no model with gradients (``CB-EVAL-08``).
    """

    def __init__(
        self, wanted: Sequence[Stress], sides: Sequence[Side], views: Sequence[Preprocessing], plan: Plan
    ) -> None:
        self.wanted, self.sides, self.views, self.plan = tuple(wanted), sides, views, plan
        if wanted and (not views or not plan.metrics):
            names = ",".join(stress.name for stress in wanted)
            raise _refused(
                "--robust", f"--robust {names}", "it needs images with labels, and the dataset has none", _WITHOUT
            )
        self.sources = {side.letter: self._source(side) for side in sides} if any(s.attack for s in wanted) else {}

    def _source(self, side: Side) -> Side:
        """Return the model whose gradient attacks a model: itself, or else the other one (transfer)."""
        attacks = ", ".join(stress.name for stress in self.wanted if stress.attack)
        if self.plan.task != "classification":
            raise _refused(
                attacks, f"--robust {attacks}", f"it needs one class per image; this is {self.plan.task}", _WITHOUT
            )
        if side.differentiable:
            return side
        for other in self.sides:
            if other.differentiable and other.view == side.view:
                return other
        why = f"it runs in {side.runtime.backend}, which has no gradients"
        give = "give the model that the file was exported from as A; its gradient is then used for both"
        raise _refused(attacks, side.name, why, give)

    @property
    def remarks(self) -> list[str]:
        """Remarks about transferred attacks."""
        return [
            f"attacks on {letter.upper()} use the gradient of {source.letter.upper()} ({source.name})"
            for letter, source in self.sources.items()
            if source.letter != letter
        ]

    def columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return the records of every corruption, seed, model and metric: column → ``[batch, numbers]``."""
        found: dict[str, Tensor] = {}
        for stress in self.wanted:
            for seed in range(stress.seeds):
                kept: dict[str, Tensor] = {}
                for side in self.sides:
                    view, source = self.views[side.view], self.sources.get(side.letter, side)
                    shared = source.letter if stress.attack else f"view {side.view}"
                    if shared not in kept:
                        kept[shared] = self._changed(stress, seed, batch, source, view)
                    outputs = side.run_inputs({side.runtime.inputs[0].name: kept[shared]})
                    for name, records in records_of(self.plan, outputs, batch.labels).items():
                        found[f"{stress.key}/{seed}/{side.letter}/{name}"] = records
        return found

    def _changed(self, stress: Stress, seed: int, batch: Batch, source: Side, view: Preprocessing) -> Tensor:
        """Return the changed inputs of a batch with one preprocessing."""
        inputs = batch.views[source.view]
        assert isinstance(inputs, Tensor) and batch.labels is not None
        if stress.name == "occlusion":
            return occluded(inputs, stress.strength)
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (view.mean, view.std))
        pixels = (inputs * std + mean).clamp(0, 1)
        if not stress.attack:
            apply = CORRUPTIONS[stress.name].apply
            assert apply is not None
            return (apply(pixels, stress.strength, generators(seed, batch.indices)) - mean) / std

        def logits(changed: Tensor) -> Tensor:
            return self.plan.classes.restrict(source.differentiate((changed - mean) / std))

        return (attacked(stress.name, stress.strength, pixels, batch.labels, logits) - mean) / std


def _refused(what: str, where: str, why: str, do: str) -> UsageError:
    return UsageError(f"{what} is not possible here", code="CB-EVAL-08", where=where, why=why, do=do)
