"""Options of an evaluation on data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cbsurgeon.options.flags import memory_limit, option
from cbsurgeon.options.texts import percent, words
from cbsurgeon.vocabulary import TASKS


@dataclass(frozen=True)
class EvaluateOptions:
    """How :func:`cbsurgeon.evaluate` measures and compares."""

    claim: float | None = option(
        None,
        "Largest acceptable loss of B's first metric compared with A, in percentage points, such as 0.1%. The verdict "
        "is true, false (exit 1) or INCONCLUSIVE.",
        "--claim",
        metavar="PERCENT",
        read=percent,
    )
    task: str | None = option(None, "Task of the model.", "--task", choices=TASKS, shown="from outputs and labels")
    metrics: Sequence[str] = option(
        (),
        "Metrics by name, and your own as mod:package.module:function.",
        "--metrics",
        metavar="LIST",
        read=words,
        shown="those of the task",
    )
    output: str | None = option(
        None,
        "Output to evaluate, for a model with several.",
        "--output-name",
        metavar="NAME",
        shown="logits, or the only suitable one",
    )
    classes: Path | None = option(
        None,
        "Text file with the output index of each class of the dataset, one per line; other outputs are ignored (as "
        "ImageNet-A needs).",
        "--classes",
        metavar="FILE",
        read=Path,
    )
    per_class: bool = option(False, "Report the first metric of each class as well.", "--per-class")
    robust: Sequence[str] = option(
        (),
        "Corrupted and attacked images to evaluate on as well: occlusion, noise, shot, blur, fgsm, pgd; with a "
        "strength: noise=5.",
        "--robust",
        metavar="LIST",
        read=words,
    )
    seeds: int = option(
        5, "Number of repetitions of random corruptions.", "--seeds", metavar="N", number=int, least=1, shown="5"
    )
    resume: bool = option(
        False,
        "Continue an interrupted run; finished parts are not computed again.",
        "--resume",
    )
    device: str = option(
        "cpu", "cpu or cuda; an engine always runs on the GPU.", "--device", metavar="NAME", shown="cpu"
    )
    trust: bool = option(False, "Read files that can run code (.pt2, engines).")
    max_memory: int | None = memory_limit()
