"""Making the result of an evaluation from the records of all processes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cbsurgeon.data import Data, Problem
from cbsurgeon.errors import InputFileError
from cbsurgeon.evaluation import diagnosis, robustness
from cbsurgeon.evaluation.comparison import Difference, difference, interval, judge, per_class, value
from cbsurgeon.evaluation.diagnosis import Finding
from cbsurgeon.evaluation.metrics import Metric
from cbsurgeon.evaluation.records import recording
from cbsurgeon.evaluation.records.recording import Plan
from cbsurgeon.evaluation.records.table import Table
from cbsurgeon.evaluation.result import MOST_LISTED, Evaluation, Flip
from cbsurgeon.evaluation.robustness import Stress
from cbsurgeon.evaluation.side import Side
from cbsurgeon.evaluation.statistics import bootstrap, proportion
from cbsurgeon.evaluation.thumbnails import with_thumbnails
from cbsurgeon.options import EvaluateOptions


@dataclass(frozen=True)
class Part:
    """The records of one process.

    Attributes:
        plan: what was recorded; ``None`` if no sample could be read.
        table: the records.
        problems, notes: unreadable samples and conversions.
        findings: the findings for its first batch.
        rate: images per second.
        outputs: ``a`` or ``b`` → name of the evaluated output.
        stresses: the corruptions and attacks.
        remarks: facts that the user should know.
        resumed: number of images that an interrupted run had finished.
    """

    plan: Plan | None
    table: Table
    problems: tuple[Problem, ...]
    notes: Mapping[str, int]
    findings: tuple[Finding, ...]
    rate: float
    outputs: Mapping[str, str]
    stresses: tuple[Stress, ...] = ()
    remarks: tuple[str, ...] = ()
    resumed: int = 0


def summarize(parts: Sequence[Part], sides: Sequence[Side], opened: Data, how: EvaluateOptions) -> Evaluation:
    """Combine the parts of all processes to the result.

    Raises:
        InputFileError: no sample could be read (``CB-DATA-14``).
    """
    whole, problems, notes, findings = Table(), list[Problem](), Counter[str](), list[Finding]()
    for part in parts:
        whole.extend(part.table)
        problems += part.problems
        notes.update(part.notes)
        findings += part.findings
    planned = [part for part in parts if part.plan is not None]
    if not planned or planned[0].plan is None:
        raise _nothing(opened.source.spec, problems)
    plan = planned[0].plan
    for side in sides:
        side.output = planned[0].outputs[side.letter]
    indices, names, columns = whole.ordered()
    records = {
        side.letter: {metric.name: columns[f"{side.letter}/{metric.name}"] for metric in plan.metrics} for side in sides
    }
    differences: dict[str, Difference] = {}
    compared: dict[str, Any] = {}
    if len(sides) == 2:
        differences = {m.name: difference(m, records["a"][m.name], records["b"][m.name]) for m in plan.metrics}
        compared = _compared(indices, names, columns, opened)
    findings += _not_finite(sides, columns)
    claim = None
    if differences:
        main = plan.metrics[0]
        claim = None if how.claim is None else judge(main, differences[main.name], how.claim, len(names))
        if how.claim is None:
            findings += _worse(main, differences[main.name])
    by_class = {}
    if how.per_class and recording.LABEL in columns and plan.metrics:
        main = plan.metrics[0]
        rows = {letter: values[main.name] for letter, values in records.items()}
        by_class = per_class(main, rows, columns[recording.LABEL][:, 0].long())
    problems.sort(key=lambda problem: problem.name)
    return Evaluation(
        sides={side.letter: side.to_dict() for side in sides},
        data=opened.source.spec,
        task=plan.task,
        samples=len(names),
        metrics={side: _each(plan, value, rows) for side, rows in records.items()},
        difference=differences,
        intervals={side: _each(plan, interval, rows) for side, rows in records.items()},
        preprocessing={s.letter: s.stated for s in sides if s.stated is not None and opened.views},
        claim=claim,
        findings=tuple(findings),
        problems={problem.name: problem.reason for problem in problems[:MOST_LISTED]},
        skipped=len(problems),
        notes=dict(sorted(notes.items())),
        remarks=(*_remarks(plan, opened, sides), *planned[0].remarks),
        titles={metric.name: (metric.title, metric.percent) for metric in plan.metrics},
        classes=opened.source.classes,
        per_class=by_class,
        robust=tuple(robustness.summarize(planned[0].stresses, plan.metrics, list(records), columns)),
        rate=round(sum(part.rate for part in parts), 2),
        resumed=sum(part.resumed for part in parts),
        **compared,
    )


def _nothing(where: str, problems: Sequence[Problem]) -> InputFileError:
    first = problems[0] if problems else None
    return InputFileError(
        "no sample of the dataset can be read",
        code="CB-DATA-14",
        where=where,
        why=f"{len(problems)} failed, first {first.name}: {first.reason}" if first else "it has no samples",
        do="check the dataset",
    )


def _each(plan: Plan, function: Any, rows: Mapping[str, Tensor]) -> dict[str, Any]:
    return {metric.name: function(metric, rows[metric.name]) for metric in plan.metrics}


def _compared(indices: Tensor, names: Sequence[str], columns: Mapping[str, Tensor], opened: Data) -> dict[str, Any]:
    """Return agreement, distance, and the images that flipped."""
    agree, apart = columns[recording.AGREEMENT], columns[recording.DISTANCE].sum(0)
    whole = bool(((agree == 0) | (agree == 1)).all())
    ends = proportion(float(agree.sum()), len(agree)) if whole else bootstrap(None, agree)
    distance = math.sqrt(float(apart[0]) / float(apart[1])) if float(apart[1]) > 0 else None
    found: dict[str, Any] = {
        "agreement": (float(agree.mean()), ends),
        "distance": distance if distance is None or math.isfinite(distance) else None,
    }
    if recording.MARGIN not in columns:
        return found
    changed = (agree[:, 0] == 0).nonzero()[:, 0].tolist()
    labels, margin = columns.get(recording.LABEL), columns[recording.MARGIN]
    flips = [
        Flip(
            int(indices[row]),
            names[row],
            None if labels is None else int(labels[row, 0]),
            int(columns["a/prediction"][row, 0]),
            int(columns["b/prediction"][row, 0]),
            float(margin[row, 0]) if math.isfinite(float(margin[row, 0])) else None,
        )
        for row in changed[:MOST_LISTED]
    ]
    return {**found, "flips": len(changed), "flipped": with_thumbnails(flips, opened)}


def _not_finite(sides: Sequence[Side], columns: Mapping[str, Tensor]) -> list[Finding]:
    found = []
    for side in sides:
        broken = int((columns[f"{side.letter}/finite"] == 0).sum())
        if broken:
            where = f"{broken} images ({side.runtime.dtype})"
            text = f"{side.letter.upper()}'s outputs are not finite for {where}: they overflow"
            found.append(Finding(diagnosis.FINITE, text))
    return found


def _worse(metric: Metric, found: Difference) -> list[Finding]:
    """Return a finding if B is worse than A with 95 % confidence."""
    loss = found.loss
    if loss is None or loss[0] <= 0 or found.value is None:
        return []
    unit, scale = ("percentage points", 100) if metric.percent else ("", 1)
    low, high = (scale * end for end in loss)
    text = (
        f"{metric.title} of B is worse by {scale * abs(found.value):.3g} {unit} (95 % interval {low:.3g} to {high:.3g})"
    )
    return [Finding(diagnosis.WORSE, text.replace("  ", " "))]


def _remarks(plan: Plan, opened: Data, sides: Sequence[Side]) -> tuple[str, ...]:
    found = list(opened.source.remarks)
    if not opened.source.labelled:
        found.append("the dataset has no labels, so accuracy was not measured")
    for side in sides:
        found += [f"{side.letter.upper()}: {note}" for note in side.runtime.notes]
    if plan.classes.chosen:
        found.append(f"outputs restricted to {plan.classes.count} of {plan.classes.outputs} classes")
    return tuple(found)
