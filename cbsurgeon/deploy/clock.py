"""Timing the steps of a long job, and reporting them to a progress callback."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cbsurgeon.vocabulary import Progress


class Clock:
    """Records the seconds of each step, and calls ``progress`` as each step starts."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str, message: str) -> Iterator[None]:
        """Time one step."""
        self.tell(message)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = round(self.seconds.get(step, 0.0) + time.perf_counter() - start, 3)

    def tell(self, message: str) -> None:
        """Pass a message to the progress callback, if there is one."""
        if self.progress is not None:
            self.progress(message)
