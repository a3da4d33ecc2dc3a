"""``analyze``: what the attention of a model does on real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from cbsurgeon import analysis
from cbsurgeon.analysis import Analysis
from cbsurgeon.models import Model
from cbsurgeon.options import AnalyzeOptions, DataOptions, Loading, documented, fields_of, resolve
from cbsurgeon.verbs.editing import load
from cbsurgeon.vocabulary import Progress


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
    """Entropy, distance and softmax gradient of every attention, the scales of CB_S, and pictures of the attention.

    With two models also their paired difference on the same images, and one sentence for each difference that is shown.
    Under ``torchrun`` the processes share the images and give the figures of one.

    Args:
        model, other: models, references, or modules (captured on the first two samples of ``data``, a tensor).
        how: what to draw, and where to run; or its fields as keywords.
        reading: how to read a dataset; or its fields as keywords.
        data: a folder of images, ``file.npz``, a tensor, tensors by input name, or an iterable of batches; ``None``
            takes a few photographs that scikit-image ships.
        loading: how references are loaded.
        progress: told each step.

    Returns:
        The result; ``.to_json()``, ``.plot("curves.png")``.

    Raises:
        CaptureError: a model cannot be captured whole.
        NothingMatched: a model has neither an attention with a map nor a CB_S (CB-ANALYZE-04).
        UsageError: the data do not fit the model (CB-ANALYZE-01 to 03), or a query that does not exist (CB-ANALYZE-06).
        InputFileError: the dataset cannot be read (``CB-DATA-*``), or no image of it (CB-ANALYZE-05).
    """
    names = fields_of(DataOptions)
    reading = resolve(DataOptions, reading, {key: keywords[key] for key in keywords if key in names}, "analyze")
    how = resolve(AnalyzeOptions, how, {key: keywords[key] for key in keywords if key not in names}, "analyze")
    loading = loading or Loading()
    opened = [
        side if isinstance(side, Model | nn.Module) else load(str(side), loading)
        for side in (model, other)
        if side is not None
    ]
    return analysis.analyze(opened, data, how, reading, progress=progress)
