"""Determining the task from the labels, and checking labels and classes against the model's outputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cbsurgeon.errors import CBSurgeonError, InputFileError, UsageError
from cbsurgeon.models.files import strict_json
from cbsurgeon.models.imaging import OUTSIDE

DIMENSIONS = {"classification": (2,), "multilabel": (2,), "segmentation": (4,)}
"""Task → numbers of dimensions that outputs may have."""
MOST_BYTES = 1 << 20
"""Most bytes of a file of classes that are read."""
SPLITS = ("val", "validation", "test", "train", "training")
"""Names of folders that are parts of a dataset, not classes; the first one that exists is suggested."""
_OF_LABELS = {1: "classification", 2: "multilabel", 3: "segmentation"}


def task_of(labels: Tensor | None, asked: str | None, where: str) -> str | None:
    """Return the task that the labels' shape belongs to, or the user's choice if there are no labels.

    Raises:
        UsageError: the user chose another task, or the shape belongs to none (``CB-EVAL-02``).
    """
    found = None if labels is None else _OF_LABELS.get(labels.dim())
    if labels is not None and (found is None or asked not in (None, found)):
        raise UsageError(
            f"the labels do not have the shape of {asked or 'any task'}",
            code="CB-EVAL-02",
            where=where,
            why=f"a batch of labels has shape {list(labels.shape)}, which is that of {found or 'no task'}",
            do="classification: [samples]; multilabel: [samples, classes]; segmentation: [samples, height, width]",
        )
    return found or asked


@dataclass(frozen=True)
class Classes:
    """The mapping from labels to outputs.

    Attributes:
        outputs: number of outputs of the model.
        chosen: index of the output of each label; empty if label and index are equal.
    """

    outputs: int
    chosen: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Number of classes that are evaluated."""
        return len(self.chosen) or self.outputs

    def restrict(self, outputs: Tensor) -> Tensor:
        """Return the outputs of the evaluated classes."""
        return outputs[:, list(self.chosen)] if self.chosen else outputs


def classes_of(outputs: int, file: Path | None, named: tuple[str, ...], where: str) -> Classes:
    """Return the mapping from a dataset's classes to a model's outputs.

    Args:
        outputs: number of outputs of the model.
        file: a file with the index of the output of each class of the dataset.
        named: names of the dataset's classes, if it has them.
        where: the dataset.

    Raises:
        UsageError: the numbers of classes of dataset and model differ (``CB-EVAL-03``).
        InputFileError: the file is not a valid list of indices (``CB-EVAL-04``).
    """
    chosen = () if file is None else _read(file, outputs)
    if named and len(named) != (len(chosen) or outputs):
        what = f"{len(chosen)} classes in {file}" if chosen else f"{outputs} outputs of the model"
        raise UsageError(
            "the numbers of classes of dataset and model differ",
            code="CB-EVAL-03",
            where=where,
            why=f"{len(named)} classes in the dataset "
            f"({', '.join(named[:3])}{' ...' if len(named) > 3 else ''}), {what}",
            do=_split(named, where)
            or "--classes FILE, a text file with the output index of each class of the dataset, one per line",
        )
    return Classes(outputs, chosen)


def _split(named: tuple[str, ...], where: str) -> str:
    """Return the advice if the sub-folders are the parts of a dataset, such as ``train`` and ``val``; else empty."""
    if not set(named) <= set(SPLITS):
        return ""
    part = next(name for name in SPLITS if name in named)
    return f"give one part of the dataset: --data {where.rstrip('/')}/{part}"


def check_labels(labels: Tensor, task: str, count: int, where: str) -> None:
    """Raise an error if a label is not a class of the model.

    Raises:
        UsageError: a label is out of range, or the number of classes differs (``CB-EVAL-03``).
    """
    if task == "multilabel":
        other = labels[(labels != 0) & (labels != 1)]
        if labels.shape[1] == count and not other.numel():
            return
        why = f"a label has {labels.shape[1]} numbers, the model {count} outputs"
        if labels.shape[1] == count:
            why = f"a label has the number {other[0].item()}; each is 1 for a class that the sample has, or else 0"
    else:
        counted = labels[labels != OUTSIDE] if task == "segmentation" else labels
        low, high = (int(counted.min()), int(counted.max())) if counted.numel() else (0, 0)
        if low >= 0 and high < count:
            return
        why = f"labels range from {low} to {high}, but the model has {count} classes (0 to {count - 1})"
    raise UsageError(
        "the labels do not belong to this model",
        code="CB-EVAL-03",
        where=where,
        why=why,
        do="check that the model was trained for this dataset; --classes FILE selects a subset of the model's classes",
    )


def _read(file: Path, outputs: int) -> tuple[int, ...]:
    def refusal(why: str) -> CBSurgeonError:
        return InputFileError(
            "the file of classes cannot be used",
            code="CB-EVAL-04",
            where=str(file),
            why=why,
            do="write the output index of each class, one per line, in the order of the dataset's classes",
        )

    try:
        text = strict_json.head(file, MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise refusal(error.strerror or str(error)[:160]) from error
    except UnicodeDecodeError as error:
        raise refusal("it is not a text in UTF-8") from error
    words = re.split(r"[\s,\[\]]+", text.strip("[], \r\n\t"))
    wrong = next((word for word in words if not re.fullmatch(r"-?[0-9]{1,9}", word)), None)
    if wrong is not None:
        raise refusal(f"{wrong[:40]!r} is not the index of an output" if wrong else "it is empty")
    numbers = tuple(map(int, words))
    if len(set(numbers)) != len(numbers):
        raise refusal("an index appears twice")
    if len(numbers) < 2 or not 0 <= min(numbers) <= max(numbers) < outputs:
        raise refusal(
            f"it has {len(numbers)} indices from {min(numbers)} to {max(numbers)}; the model has {outputs} outputs"
        )
    return numbers
