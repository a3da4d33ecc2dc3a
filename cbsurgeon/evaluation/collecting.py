"""Running the models on one process's share of the dataset, unit by unit."""

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
"""Tensors by the names of outputs, or by ``a`` and ``b``."""


class Collection:
    """Runs the units that are not finished yet, and saves the finished ones.

    Args:
        opened: the dataset.
        sides: the models.
        plan: makes the plan from a batch and all outputs of each model for it.
        findings: returns the findings for a batch and the evaluated output of each model.
        wanted: corruptions and attacks to apply to the images.
        state: where finished units are saved.
        resume: continue from the saved units.
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
        state.images = len(self._before.table)
        if opened.share[0] == 0 and not resume:
            state.clear()

    def run(self, meter: Meter) -> Part:
        """Return the part of this process; units finished by an interrupted run belong to the first process's part."""
        rank, count = self.opened.share
        finished = set(self._before.units)
        units = range(self.opened.source.units(self.opened.batch))
        pending = [unit for unit in units if unit not in finished]
        meter.expect(len(pending) / max(1, len(units)))
        try:
            with torch.no_grad():
                for batch in self.opened.read(pending[rank::count]):
                    self._take(batch)
                    meter.count(len(batch) + len(batch.problems))
                if self.plan is None and finished:
                    self._plan_again(finished)
        except BaseException as stop:  # also an interruption
            self._keep()
            stop.add_note(self.state.summary())
            raise
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
                self._keep()

    def _keep(self) -> None:
        """Save the units that are finished and not saved yet."""
        if self.state.usable and self._fresh.units:
            self.state.write(self._fresh)
            self._done.add(self._fresh)
            self._fresh = Progress()

    def _outputs(self, batch: Batch) -> tuple[Plan, Stressed, Named]:
        """Return the plan, the corruptions and each model's outputs; the first batch determines the plan."""
        if self.plan is not None and self._stressed is not None:
            return self.plan, self._stressed, {side.letter: side.run(batch) for side in self.sides}
        every = {side.letter: side.all_outputs(batch) for side in self.sides}
        self.plan = self._make_plan(batch, every)
        self._stressed = Stressed(self.wanted, self.sides, self.opened.views, self.plan)
        return self.plan, self._stressed, {side.letter: every[side.letter][side.output].float() for side in self.sides}

    def _plan_again(self, finished: set[int]) -> None:
        """Read one unit again to make the plan, if an interrupted run had finished all units of this share."""
        for batch in self.opened.read(sorted(finished)[:1]):
            if len(batch):
                self._outputs(batch)


def collect(collection: Callable[[], Collection], meter: Meter) -> list[Part]:
    """Run the evaluation in all processes, and return their parts in every process."""
    made: list[Collection] = []
    processes.gathered(lambda: made.append(collection()))  # nobody writes before the state is cleared
    return processes.gathered(lambda: made[0].run(meter))
