"""The same random numbers every time, one thread per process, and Ctrl-C as in a terminal."""

from __future__ import annotations

import os
import signal

# Before torch is imported, and for the processes that tests start: the suite runs a process on every core, small models
# gain nothing from threads, and threads that spin while they wait take the cores from the other workers.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# What is kept between runs would hide what a test changed; the tests of the cache switch it on.
os.environ["CBSURGEON_NO_CACHE"] = "1"

import pytest
import torch

# A shell starts what it runs in the background with Ctrl-C ignored, and every process of ours would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)
