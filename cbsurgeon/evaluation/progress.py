"""Reporting the progress of an evaluation: images, images per second, time left."""

from __future__ import annotations

import math
import time

from cbsurgeon.data import Data
from cbsurgeon.vocabulary import Progress

_EVERY = 0.5
"""Seconds between two messages."""


class Meter:
    """Counts images and reports progress.

    Attributes:
        done: number of images so far.
    """

    def __init__(self, data: Data, tell: Progress, what: str = "evaluating") -> None:
        count, processes = data.source.count, data.share[1]
        self._all = None if count is None else -(-count // processes)
        self._tell, self._what, self._start, self._said = tell, what, time.perf_counter(), 0.0
        self.done = 0

    def expect(self, share: float) -> None:
        """Set the fraction of the images that is left to do."""
        self._all = None if self._all is None else math.ceil(self._all * share)

    def count(self, images: int) -> None:
        """Add images, and report progress from time to time."""
        self.done += images
        now = time.perf_counter()
        if now - self._said >= _EVERY:
            self._said = now
            self._tell(self._message())

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.done / max(1e-9, time.perf_counter() - self._start)

    def _message(self) -> str:
        rate = self.rate
        if self._all is None:
            return f"{self._what}: {self.done:,} images, {rate:.0f} images/s"
        left = max(0, self._all - self.done) / max(rate, 1e-9)
        return f"{self._what}: {self.done:,} of {self._all:,} images, {rate:.0f} images/s, {_time(left)} left"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
