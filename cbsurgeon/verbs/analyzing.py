"""``analyze``: loading models and analysing their attention on images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from cbsurgeon import analysis
from cbsurgeon.analysis import Analysis
from cbsurgeon.models import Model
from cbsurgeon.options import AnalyzeOptions, DataOptions, Loading, documented, fields_of, resolve
from cbsurgeon.report import notebook
from cbsurgeon.verbs.editing import load
from cbsurgeon.vocabulary import Progress

notebook.install(Analysis)


@documented(AnalyzeOptions, DataOptions)
def analyze(
    model: Model | nn.Module | str | Path,
    other: Model | nn.Module | str | Path | None = None,
    how: AnalyzeOptions | None = None,
    reading: DataOptions | None = None,
    /,
    *,
    data: Any = None,
    loading: Loading | None = None,
    progress: Progress | None = None,
    **keywords: Any,
) -> Analysis:
    """Analyse the attention of a model on images: entropy, distance, softmax gradient, CB_S scales, pictures.

    With two models, also return paired differences on the same images, and one sentence per significant difference.
    Under ``torchrun``, the processes share the images, and the result is the same as that of one process.

    Args:
        model, other: models, references, or modules (captured on the first two samples of ``data``, a tensor).
        how: what to draw, and the device; or its fields as keywords.
        reading: how to read a dataset; or its fields as keywords.
        data: a folder of images, ``file.npz``, a tensor, tensors by input name, or an iterable of batches; ``None``
            uses a few photographs that are part of scikit-image.
        loading: how references are loaded.
        progress: called with a message at each step.

    Returns:
        The result; it has ``.to_json()`` and ``.plot("curves.png")``.

    Raises:
        CaptureError: a model cannot be captured as a whole (CB-ANALYZE-08).
        NothingMatched: a model has neither an attention with a map nor CB_S operators (CB-ANALYZE-04).
        UsageError: the data do not match the model (CB-ANALYZE-01 to 03), or there is no such query (CB-ANALYZE-06).
        InputFileError: the dataset (``CB-DATA-*``) or all of its images (CB-ANALYZE-05) cannot be read.
    """
    names = fields_of(DataOptions)
    reading = resolve(DataOptions, reading, {key: keywords[key] for key in keywords if key in names}, "analyze")
    how = resolve(AnalyzeOptions, how, {key: keywords[key] for key in keywords if key not in names}, "analyze")
    loading = loading or Loading()

    def opened(side: Model | nn.Module | str | Path) -> Model | nn.Module:
        if isinstance(side, Model | nn.Module):
            return side
        return load(str(side), loading if other is None else loading.for_side(str(side)))

    sides = [opened(side) for side in (model, other) if side is not None]
    return analysis.analyze(sides, data, how, reading, progress=progress)
