"""The table of metrics, in the order of results; claims are about the first metric of a task.

A new metric is one file and one line here. Users give their own metric as ``mod:package.module:name``, the name of a
:class:`~cbsurgeon.evaluation.metrics.base.Metric` class, or of a function of outputs and targets that returns one
number per image.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence

from torch import Tensor

from cbsurgeon.errors import UsageError, did_you_mean
from cbsurgeon.evaluation.metrics.base import Metric
from cbsurgeon.evaluation.metrics.ece import ECE
from cbsurgeon.evaluation.metrics.mean_average_precision import MeanAveragePrecision
from cbsurgeon.evaluation.metrics.mean_iou import MeanIoU
from cbsurgeon.evaluation.metrics.nll import NLL
from cbsurgeon.evaluation.metrics.pixel_accuracy import PixelAccuracy
from cbsurgeon.evaluation.metrics.top1 import Top1
from cbsurgeon.evaluation.metrics.top5 import Top5

METRICS: tuple[type[Metric], ...] = (Top1, Top5, NLL, ECE, MeanAveragePrecision, MeanIoU, PixelAccuracy)


def metrics_of(task: str, names: Sequence[str], classes: int) -> tuple[Metric, ...]:
    """Return the metrics of a task, or the named ones.

    Args:
        task: the task.
        names: names given by the user; if empty, all metrics that are useful for this number of classes.
        classes: number of outputs.

    Raises:
        UsageError: no such metric, one of another task, or one that needs more classes (``CB-EVAL-05``).
    """
    if not names:
        return tuple(kind() for kind in METRICS if kind.task == task and kind.least <= classes)
    return tuple(_named(name, task, classes) for name in names)


def _named(name: str, task: str, classes: int) -> Metric:
    if name.startswith("mod:"):
        return _own(name)
    known = {kind.name: kind for kind in METRICS if kind.task == task}
    if name not in known:
        raise UsageError(
            f"there is no metric {name!r} for {task}",
            code="CB-EVAL-05",
            where=f"--metrics {name}",
            why=f"the metrics are {', '.join(known)}",
            do=did_you_mean(name, known) or "use mod:package.module:function for your own metric",
        )
    found = known[name]()
    if found.least > classes:
        raise UsageError(
            f"the metric {name} is not meaningful here",
            code="CB-EVAL-05",
            where=f"--metrics {name}",
            why=f"it needs at least {found.least} classes, and there are {classes}",
            do=f"leave it out: --metrics {','.join(key for key, kind in known.items() if kind.least <= classes)}",
        )
    return found


def _own(name: str) -> Metric:
    package, _, path = name.removeprefix("mod:").partition(":")
    try:
        found = getattr(importlib.import_module(package), path)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            "the metric cannot be imported",
            code="CB-EVAL-05",
            where=name,
            why=f"{type(error).__name__}: {error}",
            do="write mod:package.module:function; Python must be able to import it",
        ) from error
    if inspect.isclass(found) and issubclass(found, Metric):
        return found()
    return _Function(path, found)


class _Function(Metric):
    """A user's own function; the value is the mean of its numbers."""

    percent = False

    def __init__(self, name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.name = self.title = name
        self._function = function

    def record(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Record the function's result, one number per image."""
        found = self._function(outputs, targets)
        if found.shape != (len(outputs),):
            raise UsageError(
                f"the metric {self.name} does not return one number per image",
                code="CB-EVAL-05",
                where=f"metric {self.name}",
                why=f"its result has shape {list(found.shape)} for {len(outputs)} images",
                do="return a tensor of shape [batch]",
            )
        return found.double()[:, None]
