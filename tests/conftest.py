"""The same random numbers every time, and one thread per process: the suite runs a process on every core."""

from __future__ import annotations

import os

# Before torch is imported, and for the processes that tests start: small models gain nothing from threads, and
# threads that spin while they wait take the cores from the other workers.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)
