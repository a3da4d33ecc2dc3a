"""Base classes of all kinds of datasets: samples in a fixed order, read in units that no two processes share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from cbsurgeon.data.sample import Sample


class Source(ABC):
    """An open dataset.

    A *unit* is a part of the dataset that one process reads as a whole; no batch spans two units. The batches of a unit
    do not depend on the process that reads it, so any number of processes computes exactly the same numbers.

    Attributes:
        spec: the reference given by the user.
        pictures: whether its samples are images, which need preprocessing; otherwise they are arrays of model inputs.
        labelled: whether its samples have labels.
        classes: names of the classes in the order of their labels; empty if unknown.
        count: number of samples; ``None`` if only reading the dataset shows it.
        remarks: facts that the user should know about the dataset.
    """

    def __init__(
        self,
        spec: str,
        *,
        pictures: bool,
        labelled: bool,
        classes: tuple[str, ...] = (),
        count: int | None = None,
        remarks: tuple[str, ...] = (),
    ) -> None:
        self.spec, self.pictures, self.labelled = spec, pictures, labelled
        self.classes, self.count, self.remarks = classes, count, remarks

    @property
    def span(self) -> int | None:
        """Number of samples that ``Sample.index`` counts, which ``--limit`` does not change; ``None`` if unknown."""
        return self.count

    def fingerprint(self) -> str:
        """Return a text that changes when the list of samples changes."""
        return f"{self.count} {' '.join(self.classes)}"

    @abstractmethod
    def units(self, batch: int) -> int:
        """Return the number of units at this batch size."""

    @abstractmethod
    def unit(self, number: int, batch: int) -> Iterator[Sample]:
        """Yield the samples of one unit, in order."""


class Indexed(Source):
    """A dataset whose samples can be read in any order: a unit is one batch."""

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """Return the sample at a position."""

    def numbered(self, index: int) -> Sample:
        """Return the sample whose ``Sample.index`` is ``index``.

        That is the sample at this position, except in a selection of another dataset, whose samples keep their index.
        """
        return self.sample(index)

    def units(self, batch: int) -> int:
        """See :meth:`Source.units`."""
        assert self.count is not None
        return -(-self.count // batch)

    def unit(self, number: int, batch: int) -> Iterator[Sample]:
        """See :meth:`Source.unit`."""
        assert self.count is not None
        for index in range(number * batch, min((number + 1) * batch, self.count)):
            yield self.sample(index)
