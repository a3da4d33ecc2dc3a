"""``evaluate``: measuring metrics of one model, or of two models on the same images."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from cbsurgeon.checks import memory
from cbsurgeon.checks.environment import environment
from cbsurgeon.data import Batch, Data, Source, open_data, open_source, processes
from cbsurgeon.errors import UsageError
from cbsurgeon.evaluation import diagnosis
from cbsurgeon.evaluation.collecting import Collection, Named, collect
from cbsurgeon.evaluation.metrics import metrics_of
from cbsurgeon.evaluation.progress import Meter
from cbsurgeon.evaluation.records.recording import Plan
from cbsurgeon.evaluation.records.resuming import State, state_of
from cbsurgeon.evaluation.result import Evaluation
from cbsurgeon.evaluation.robustness import stresses
from cbsurgeon.evaluation.side import Side, Target, choose_output, open_side
from cbsurgeon.evaluation.summary import summarize
from cbsurgeon.evaluation.task import DIMENSIONS, Classes, classes_of, task_of
from cbsurgeon.models import Preprocessing
from cbsurgeon.models.preprocessing import changed
from cbsurgeon.options import DataOptions, EvaluateOptions
from cbsurgeon.vocabulary import Progress


def evaluate(
    targets: Sequence[Target],
    data: str | Path,
    how: EvaluateOptions,
    reading: DataOptions,
    *,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure metrics of one model on a dataset, or of two models with their paired differences.

    Args:
        targets: one or two models or files.
        data: the dataset.
        how: what to measure.
        reading: how to read the dataset.
        progress: called with a message at each step.

    Raises:
        CBSurgeonError: as :func:`cbsurgeon.evaluate`.
    """
    start, tell = time.perf_counter(), progress or (lambda step: None)
    with ExitStack() as stack:
        tell("opening the models")
        sides = [
            open_side(target, letter, device=how.device, trust=how.trust)
            for letter, target in zip("ab", targets, strict=False)
        ]
        for side in sides:
            stack.enter_context(side.runtime)
        tell("listing the dataset")
        opened = _open(open_source(data, reading), reading, sides)
        if how.device == "cpu":
            _require_memory(targets, sides, opened, how.max_memory)
        state = state_of(sides, opened, how)
        parts = collect(lambda: _collection(opened, sides, how, state), Meter(opened, tell))
        tell("summarizing")
        found = processes.from_first(lambda: summarize(parts, sides, opened, how))
        if opened.share[0] == 0:
            state.clear()
    seconds = round(time.perf_counter() - start, 3)
    return replace(found, seconds=seconds, environment=environment(), first=processes.share()[0] == 0)


def _open(source: Source, reading: DataOptions, sides: Sequence[Side]) -> Data:
    """Open the dataset with the preprocessing of each model; equal ones are shared."""
    only = [side.runtime.only_batch for side in sides if side.runtime.only_batch is not None]
    if only:
        # With a multiple of a file's fixed batch size, only the last batch has to be padded.
        step = math.lcm(*only)
        reading = replace(reading, batch=max(1, reading.batch // step) * step)
    views: list[Preprocessing] = []
    for side in sides if source.pictures else ():
        side.stated = changed(side.stated, where=side.name, **reading.preprocessing)
        same = [number for number, view in enumerate(views) if not view.differences(side.stated)]
        side.view = same[0] if same else len(views)
        views += [] if same else [side.stated]
    return open_data(source, views, reading, share=processes.share())


def _require_memory(targets: Sequence[Target], sides: Sequence[Side], opened: Data, limit: int | None) -> None:
    """Refuse a batch size for which a model needs more memory than there is (CB-RUN-14)."""
    pairs = [pair for pair in zip(targets, sides, strict=True) if pair[1].runtime.only_batch is None]
    memory.require_dataset([target for target, _ in pairs], [side.view for _, side in pairs], opened, limit)


def _collection(opened: Data, sides: Sequence[Side], how: EvaluateOptions, state: State) -> Collection:
    return Collection(
        opened,
        sides,
        plan=lambda batch, outputs: _plan(batch, outputs, opened, sides, how),
        findings=lambda batch, outputs, plan: _findings(batch, outputs, opened, sides, plan.classes),
        wanted=stresses(how.robust, how.seeds),
        state=state,
        resume=how.resume,
    )


def _plan(
    first: Batch, outputs: Mapping[str, Named], opened: Data, sides: Sequence[Side], how: EvaluateOptions
) -> Plan:
    """Determine task, outputs, classes and metrics from the first batch and all outputs for it.

    Raises:
        UsageError: labels, outputs, classes or metrics do not match (``CB-EVAL-01`` to ``CB-EVAL-05``).
    """
    where = opened.source.spec
    task = task_of(first.labels, how.task, where)
    dims = DIMENSIONS[task] if task else (2, 4)
    counts = []
    for side in sides:
        own = outputs[side.letter]
        side.output = choose_output(side, own, how.output, dims)
        counts.append(int(own[side.output].shape[1]))
    if len(set(counts)) > 1:
        raise UsageError(
            "the two models have different numbers of classes",
            code="CB-EVAL-03",
            where=f"{sides[0].name} and {sides[1].name}",
            why=f"{counts[0]} and {counts[1]} outputs",
            do="compare models with the same classes",
        )
    classes = classes_of(counts[0], how.classes, opened.source.classes, where)
    metrics = metrics_of(task, how.metrics, classes.count) if task and first.labels is not None else ()
    return Plan(task, metrics, classes, where)


def _findings(
    first: Batch, outputs: Named, opened: Data, sides: Sequence[Side], classes: Classes
) -> list[diagnosis.Finding]:
    """Return the findings for the first batch and each model's outputs for it."""
    found: list[diagnosis.Finding] = []
    for side in sides:
        found += diagnosis.batch_dependence(side, first, outputs[side.letter])
    if len(sides) == 2:
        found += diagnosis.described(sides[0], sides[1], outputs)
        if not {finding.kind for finding in found} - {diagnosis.PREPROCESSING}:
            found += diagnosis.explained(sides, first, outputs, classes, opened.views)
    return found
