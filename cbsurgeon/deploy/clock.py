"""Seconds per step of a long job, and the step's name to whoever watches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cbsurgeon.vocabulary import Progress


class Clock:
    """Collects ``seconds`` by step; tells ``progress`` as each one starts."""

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
        """Say something to whoever watches."""
        if self.progress is not None:
            self.progress(message)
