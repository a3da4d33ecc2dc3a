"""``--budget`` holds while other work has the processor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from cbsurgeon.checks.latency.benchmark import bench
from cbsurgeon.models.model import Model

BUDGET = 5.0
LATE, FIXED = 1.2, 2.0
"""The last group of samples is late; opening the models and reading the profile come on top, slow as all else here."""


@contextmanager
def busy() -> Iterator[None]:
    """Two tasks per core that never wait."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def test_the_budget_is_kept_on_a_busy_machine() -> None:
    """A run takes half a millisecond on an idle core, and many times that here.

    Other processes may take the cores as well: one of two attempts has to be in time.
    """
    torch.manual_seed(0)
    model = Model(nn.Sequential(*(nn.Linear(128, 128) for _ in range(6))).eval(), (torch.randn(2, 128, 128),))
    bench(model, model, on="eager", threads=1, budget=0.2)  # imports and first calls are no measuring
    took = []
    with busy():
        for _ in range(2):
            start = time.perf_counter()
            result = bench(model, model, on="eager", threads=1, budget=BUDGET)
            took.append(time.perf_counter() - start)
            assert result.own is not None and result.pairs >= 6
            assert result.verdict in ("negligible", "inconclusive")
            if took[-1] <= LATE * BUDGET + FIXED:
                return
    raise AssertionError(f"{took} seconds of {BUDGET}")
