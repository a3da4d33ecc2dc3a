"""Limiting a dataset to a number of samples (``--limit``)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from cbsurgeon.data.sample import Sample
from cbsurgeon.data.sources.source import Indexed, Source


def limited(source: Source, most: int) -> Source:
    """Return a dataset of at most ``most`` samples.

    The samples are evenly spaced if the dataset can be indexed, so that a sorted folder keeps all its classes;
    otherwise they are the first ones.
    """
    if source.count is not None and source.count <= most:
        return source
    return _Every(source, most) if isinstance(source, Indexed) else _First(source, most)


class _Every(Indexed):
    """Evenly spaced samples of a dataset."""

    def __init__(self, whole: Indexed, count: int) -> None:
        self._whole = whole
        super().__init__(
            whole.spec,
            pictures=whole.pictures,
            labelled=whole.labelled,
            classes=whole.classes,
            count=count,
            remarks=(*whole.remarks, f"{count} of {whole.count} samples, evenly spaced"),
        )

    @property
    def span(self) -> int | None:
        """See :attr:`Source.span`."""
        return self._whole.span

    def sample(self, index: int) -> Sample:
        """See :meth:`Indexed.sample`; the sample keeps its index in the whole dataset."""
        assert self._whole.count is not None and self.count is not None
        return self._whole.sample(index * self._whole.count // self.count)

    def fingerprint(self) -> str:
        """As :meth:`Source.fingerprint`."""
        return f"{self.count} of {self._whole.fingerprint()}"

    def numbered(self, index: int) -> Sample:
        """See :meth:`Indexed.numbered`."""
        return self._whole.numbered(index)


class _First(Source):
    """The first samples of a dataset, as one unit."""

    def __init__(self, whole: Source, count: int) -> None:
        self._whole, self._most = whole, count
        super().__init__(
            whole.spec,
            pictures=whole.pictures,
            labelled=whole.labelled,
            classes=whole.classes,
            remarks=(*whole.remarks, f"the first {count} samples"),
        )

    def fingerprint(self) -> str:
        """As :meth:`Source.fingerprint`."""
        return f"{self._most} of {self._whole.fingerprint()}"

    def units(self, batch: int) -> int:
        """Return 1, because the end of a shard is only known after reading it."""
        return 1

    def unit(self, number: int, batch: int) -> Iterator[Sample]:
        """See :meth:`Source.unit`."""
        samples = (sample for unit in range(self._whole.units(batch)) for sample in self._whole.unit(unit, batch))
        yield from itertools.islice(samples, self._most)
