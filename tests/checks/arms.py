"""Callables and factories to time, with a simulated clock and in new processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from cbsurgeon.checks.latency.sampling import Timed


class Clock:
    """A clock that only what is timed moves, so that a test of timing takes no time and has one answer."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls = 0

    def perf_counter(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def arm(
        self,
        seconds: float,
        *,
        interrupt_after: int | None = None,
        after: int | None = None,
        later: float = 0.0,
    ) -> Callable[[], None]:
        """A call of constant length, or of another one after so many; optionally one of them is interrupted."""

        def call() -> None:
            self.now += later if after is not None and self.calls >= after else seconds
            self.calls += 1
            if interrupt_after is not None and self.calls > interrupt_after:
                raise KeyboardInterrupt

        return call


@dataclass(frozen=True)
class Product:
    """A factory of a small matrix product, repeated; picklable."""

    repeats: int
    size: int = 64

    def __call__(self) -> Timed:
        matrix = torch.eye(self.size)

        def call() -> None:
            for _ in range(self.repeats):
                matrix @ matrix

        return Timed(call)


@dataclass(frozen=True)
class Broken:
    """A factory that fails where it is built."""

    def __call__(self) -> Timed:
        print("a library prints this")
        raise RuntimeError("this arm cannot be built")


@dataclass(frozen=True)
class Slow:
    """A factory of something that takes long enough to be interrupted."""

    def __call__(self) -> Timed:
        return Timed(lambda: time.sleep(0.01))
