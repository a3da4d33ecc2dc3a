"""What every kind of dataset is: samples in a fixed order, read in pieces that no two processes share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from cbsurgeon.data.sample import Sample


class Source(ABC):
    """A dataset, opened and not read yet.

    A *unit* is what one process reads as a whole; no batch spans two. Which process reads a unit does not change its
    batches, so that any number of processes computes exactly the same numbers.

    Attributes:
        spec: what the user asked for.
        pictures: its samples are images, which need a preprocessing; otherwise arrays that are inputs as they are.
        labelled: its samples have labels.
        classes: names of the classes by label, where it names them.
        count: number of samples; ``None`` where only reading would tell.
        remarks: facts about the dataset that a user should see.
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

    def fingerprint(self) -> str:
        """Text that changes with the samples, as far as listing them tells."""
        return f"{self.count} {' '.join(self.classes)}"

    @abstractmethod
    def units(self, batch: int) -> int:
        """Number of units at this batch size."""

    @abstractmethod
    def unit(self, number: int, batch: int) -> Iterator[Sample]:
        """The samples of one unit, in order."""


class Indexed(Source):
    """A dataset whose samples can be read in any order: a unit is one batch."""

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """One sample."""

    def numbered(self, index: int) -> Sample:
        """The sample that has this number, which is its place but in a part of another dataset."""
        return self.sample(index)

    def units(self, batch: int) -> int:
        """As :meth:`Source.units`."""
        assert self.count is not None
        return -(-self.count // batch)

    def unit(self, number: int, batch: int) -> Iterator[Sample]:
        """As :meth:`Source.unit`."""
        assert self.count is not None
        for index in range(number * batch, min((number + 1) * batch, self.count)):
            yield self.sample(index)
