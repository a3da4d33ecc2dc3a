"""``evaluate``: opening models and files, and measuring their metrics on a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cbsurgeon import evaluation
from cbsurgeon.evaluation import Evaluation
from cbsurgeon.models import Model
from cbsurgeon.options import DataOptions, EvaluateOptions, Loading, documented, fields_of, resolve
from cbsurgeon.report import notebook
from cbsurgeon.verbs.comparing import Side, open_side
from cbsurgeon.vocabulary import Progress

notebook.install(Evaluation)


@documented(EvaluateOptions, DataOptions)
def evaluate(
    a: Side,
    b: Side | None = None,
    how: EvaluateOptions | None = None,
    reading: DataOptions | None = None,
    /,
    *,
    data: str | Path,
    loading: Loading | None = None,
    progress: Progress | None = None,
    **keywords: Any,
) -> Evaluation:
    """Measure metrics of a model on a dataset; with two models, also their paired differences and the faults of B.

    Both models get the same images in the same order, each with its own preprocessing. If the preprocessings differ,
    the result is false and names the difference.

    Args:
        a, b: models, references, or files (``.onnx``, ``.engine``, ``.pt2``).
        how: what to measure; or its fields as keywords.
        reading: how to read the dataset; or its fields as keywords.
        data: a folder of images (one sub-folder per class, or flat), ``file.npz``, ``hf:DIRECTORY``, ``wds:PATTERN`` or
            ``torchvision:NAME:ROOT``.
        loading: how references are loaded.
        progress: called with a message at each step.

    Returns:
        The result. A difference does not raise an error (see :meth:`Evaluation.raise_if_failed`).

    Raises:
        UsageError: a model has no preprocessing (``CB-DATA-01``), the labels do not match the model (``CB-EVAL-02``,
            ``CB-EVAL-03``), or there is no such output or metric (``CB-EVAL-01``, ``CB-EVAL-05``).
        InputFileError: the dataset or all of its images cannot be read (``CB-DATA-*``).
        MissingPackage: torchmetrics, Pillow or torchvision is not installed.
        CBSurgeonError: a model cannot be opened or run.
    """
    names = fields_of(DataOptions)
    reading = resolve(DataOptions, reading, {key: keywords[key] for key in keywords if key in names}, "evaluate")
    how = resolve(EvaluateOptions, how, {key: keywords[key] for key in keywords if key not in names}, "evaluate")
    loading = loading or Loading(trust=how.trust)
    sides = [side if isinstance(side, Model) else open_side(str(side), loading) for side in (a, b) if side is not None]
    return evaluation.evaluate(sides, data, how, reading, progress=progress)
