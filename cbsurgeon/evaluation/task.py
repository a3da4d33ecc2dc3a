"""What a model does, read from its outputs and the labels; and the labels in the form the metrics take."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cbsurgeon.errors import CBSurgeonError, InputFileError, UsageError
from cbsurgeon.models.imaging import OUTSIDE

DIMENSIONS = {"classification": (2,), "multilabel": (2,), "segmentation": (4,)}
"""Task → dimensions its outputs have."""
_OF_LABELS = {1: "classification", 2: "multilabel", 3: "segmentation"}


def task_of(labels: Tensor | None, asked: str | None, where: str) -> str | None:
    """The task that labels of this form belong to; what the user asked for where there are none.

    Raises:
        UsageError: the user asked for another one (``CB-EVAL-02``).
    """
    found = None if labels is None else _OF_LABELS.get(labels.dim())
    if labels is not None and (found is None or asked not in (None, found)):
        raise UsageError(
            f"the labels are not those of {asked or 'a known task'}",
            code="CB-EVAL-02",
            where=where,
            why=f"a batch of labels has shape {list(labels.shape)}, as {found or 'no task'} has it",
            do="classification: [samples]; multilabel: [samples, classes]; segmentation: [samples, height, width]",
        )
    return found or asked


@dataclass(frozen=True)
class Classes:
    """Which outputs belong to which labels.

    Attributes:
        outputs: number of outputs of the model.
        chosen: the output of each label; empty where label and output are the same number.
    """

    outputs: int
    chosen: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Number of classes that are told apart."""
        return len(self.chosen) or self.outputs

    def restrict(self, outputs: Tensor) -> Tensor:
        """The outputs of the classes."""
        return outputs[:, list(self.chosen)] if self.chosen else outputs


def classes_of(outputs: int, file: Path | None, named: tuple[str, ...], where: str) -> Classes:
    """The classes of a dataset among a model's outputs.

    Args:
        outputs: number of the model's outputs.
        file: the output of each class of the dataset, one number after another.
        named: the dataset's own names of classes, where it has them.
        where: the dataset.

    Raises:
        UsageError: the dataset names other numbers of classes than the model has outputs (``CB-EVAL-03``).
        InputFileError: the file holds something else (``CB-EVAL-04``).
    """
    chosen = () if file is None else _read(file, outputs)
    if named and len(named) != (len(chosen) or outputs):
        what = f"{len(chosen)} classes in {file}" if chosen else f"{outputs} outputs of the model"
        raise UsageError(
            "the dataset has other classes than the model",
            code="CB-EVAL-03",
            where=where,
            why=f"{len(named)} classes in the dataset ({', '.join(named[:3])} ...), {what}",
            do="--classes FILE with the output index of each class of the dataset, in their order",
        )
    return Classes(outputs, chosen)


def check_labels(labels: Tensor, task: str, count: int, where: str) -> None:
    """Refuse labels that are no class.

    Raises:
        UsageError: a label lies outside the classes, or there are other numbers of them (``CB-EVAL-03``).
    """
    if task == "multilabel":
        if labels.shape[1] == count:
            return
        why = f"a label has {labels.shape[1]} numbers, the model {count} outputs"
    else:
        counted = labels[labels != OUTSIDE] if task == "segmentation" else labels
        low, high = (int(counted.min()), int(counted.max())) if counted.numel() else (0, 0)
        if low >= 0 and high < count:
            return
        why = f"labels go from {low} to {high}, and the model tells {count} classes apart (0 to {count - 1})"
    raise UsageError(
        "the labels do not belong to this model",
        code="CB-EVAL-03",
        where=where,
        why=why,
        do="check that the dataset is the one the model was trained for; --classes FILE takes a part of its classes",
    )


def _read(file: Path, outputs: int) -> tuple[int, ...]:
    def refusal(why: str) -> CBSurgeonError:
        return InputFileError(
            "the file of classes cannot be used",
            code="CB-EVAL-04",
            where=str(file),
            why=why,
            do="write the output index of each class, one a line, in the order of the dataset's classes",
        )

    try:
        words = re.split(r"[\s,\[\]]+", file.read_text(encoding="utf-8").strip(" \n\t[],"))
        numbers = tuple(int(word) for word in words)
    except (OSError, ValueError) as error:
        raise refusal(str(error)[:160]) from error
    if len(set(numbers)) != len(numbers):
        raise refusal("an index appears twice")
    if len(numbers) < 2 or not 0 <= min(numbers) <= max(numbers) < outputs:
        raise refusal(
            f"it has {len(numbers)} indices from {min(numbers)} to {max(numbers)}; the model has {outputs} outputs"
        )
    return numbers
