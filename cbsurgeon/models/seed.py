"""The fixed seed of every model that is built with random weights."""

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
    """Context manager that seeds the CPU generators of torch, numpy and ``random``, and restores them afterwards.

    Models are built on the CPU, so generators of other devices are not changed. Yields a function that returns whether
    a random number was drawn so far.
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
