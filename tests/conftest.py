"""The same random numbers every time, one thread per process, Ctrl-C as in a terminal, and the marker ``thin``."""

from __future__ import annotations

import os
import signal
from collections import Counter

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


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all but every n-th set of parameters of a test that is marked ``thin(n)`` as ``wide``."""
    seen: Counter[str] = Counter()
    for item in items:
        marker = item.get_closest_marker("thin")
        if marker is None:
            continue
        name = item.nodeid.split("[")[0]
        if seen[name] % marker.args[0]:
            item.add_marker(pytest.mark.wide)
        seen[name] += 1


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)
