"""One process's share of an evaluation: batches through the models, unit by unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from cbsurgeon.data import Batch, Data, processes
from cbsurgeon.evaluation.diagnosis import Finding
from cbsurgeon.evaluation.progress import Meter
from cbsurgeon.evaluation.records.recording import Plan, columns
from cbsurgeon.evaluation.records.resuming import Progress, State
from cbsurgeon.evaluation.robustness import Stress, Stressed
from cbsurgeon.evaluation.side import Side
from cbsurgeon.evaluation.summary import Part

Named = Mapping[str, Tensor]
"""Tensors by the names of outputs, or of sides."""


class Collection:
    """Runs what is not finished yet, and keeps what is.

    Args:
        opened: the dataset.
        sides: the models.
        plan: makes the plan from a batch and every side's outputs of it.
        findings: what a batch, and the output of each side that counts, show to be wrong.
        wanted: what else is done to the images.
        state: where finished units are kept.
        resume: continue from there.
    """

    def __init__(
        self,
        opened: Data,
        sides: Sequence[Side],
        *,
        plan: Callable[[Batch, Mapping[str, Named]], Plan],
        findings: Callable[[Batch, Named, Plan], list[Finding]],
        wanted: tuple[Stress, ...],
        state: State,
        resume: bool,
    ) -> None:
        self.opened, self.sides, self.wanted, self.state = opened, sides, wanted, state
        self._make_plan, self._look = plan, findings
        self.plan: Plan | None = None
        self._stressed: Stressed | None = None
        self._open: dict[int, Progress] = {}
        self._fresh, self._done = Progress(), Progress()
        self._before = state.read() if resume else Progress()
        if opened.share[0] == 0 and not resume:
            state.clear()

    def run(self, meter: Meter) -> Part:
        """The part of this process; what an interrupted run had finished belongs to the first process's."""
        rank, count = self.opened.share
        finished = set(self._before.units)
        units = range(self.opened.source.units(self.opened.batch))
        pending = [unit for unit in units if unit not in finished]
        meter.expect(len(pending) / max(1, len(units)))
        with torch.no_grad():
            for batch in self.opened.read(pending[rank::count]):
                self._take(batch)
                meter.count(len(batch) + len(batch.problems))
            if self.plan is None and finished:
                self._plan_again(finished)
        self._done.add(self._fresh)
        if rank == 0:
            self._done.add(self._before)
        return Part(
            self.plan,
            self._done.table,
            tuple(self._done.problems),
            dict(self._done.notes),
            tuple(self._done.findings or ()),
            meter.rate,
            {side.letter: side.output for side in self.sides},
            self.wanted,
            tuple(self._stressed.remarks) if self._stressed is not None else (),
            len(self._before.table) if rank == 0 else 0,
        )

    def _take(self, batch: Batch) -> None:
        here = self._open.setdefault(batch.unit, Progress())
        here.problems += batch.problems
        here.notes.update(batch.notes)
        if len(batch):
            first = self.plan is None
            plan, stressed, outputs = self._outputs(batch)
            if first and self.opened.share[0] == 0 and self._before.findings is None:
                here.findings = self._look(batch, outputs, plan)
            found = columns(plan, outputs, batch.labels) | stressed.columns(batch)
            here.table.add(batch.indices, batch.names, found)
        if batch.last:
            here.units = [batch.unit]
            self._fresh.add(self._open.pop(batch.unit))
            if self.state.due():
                self.state.write(self._fresh)
                self._done.add(self._fresh)
                self._fresh = Progress()

    def _outputs(self, batch: Batch) -> tuple[Plan, Stressed, Named]:
        """What is done, and each side's outputs of a batch; the first batch tells what is done."""
        if self.plan is not None and self._stressed is not None:
            return self.plan, self._stressed, {side.letter: side.run(batch) for side in self.sides}
        every = {side.letter: side.all_outputs(batch) for side in self.sides}
        self.plan = self._make_plan(batch, every)
        self._stressed = Stressed(self.wanted, self.sides, self.opened.views, self.plan)
        return self.plan, self._stressed, {side.letter: every[side.letter][side.output].float() for side in self.sides}

    def _plan_again(self, finished: set[int]) -> None:
        """Where an interrupted run had finished every unit of this share, one is read again to know what was done."""
        for batch in self.opened.read(sorted(finished)[:1]):
            if len(batch):
                self._outputs(batch)


def collect(collection: Callable[[], Collection], meter: Meter) -> list[Part]:
    """The parts of all processes, in every process."""
    made: list[Collection] = []
    processes.gathered(lambda: made.append(collection()))  # nobody writes before the first process has cleared
    return processes.gathered(lambda: made[0].run(meter))
