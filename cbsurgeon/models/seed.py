"""One fixed seed for every model that is built with random weights."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch

SEED = 0
"""The seed all builders use: the same reference and options give the same weights, in any process."""


@contextmanager
def fixed_seed(seed: int = SEED) -> Iterator[Callable[[], bool]]:
    """Seed the CPU generators of torch, numpy and ``random`` inside the block and put their states back after it.

    Models are built on the CPU, so the generators of other devices are neither read nor set. Yields a function that
    says whether a number was drawn inside the block so far.
    """
    torch_state, numpy_state, python_state = torch.get_rng_state(), numpy.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    numpy.random.seed(seed)
    random.seed(seed)
    begun = _states()
    try:
        yield lambda: _states() != begun
    finally:
        torch.set_rng_state(torch_state)
        numpy.random.set_state(numpy_state)
        random.setstate(python_state)


def _states() -> tuple[bytes, bytes, Any]:
    return torch.get_rng_state().numpy().tobytes(), pickle.dumps(numpy.random.get_state()), random.getstate()
