"""The models of the coverage sweep, and what is expected to be found in them."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.zoo import timm_models, torchvision_models, transformers_models
from benchmarks.zoo.entry import Entry

__all__ = ["Entry", "entries", "entry"]


def entries() -> Iterator[Entry]:
    """Every model of the sweep: timm, torchvision, transformers, and the negatives of the first two."""
    yield from timm_models.entries()
    yield from torchvision_models.entries()
    yield from transformers_models.entries()


def entry(name: str) -> Entry:
    """The entry of that name.

    Raises:
        KeyError: there is none.
    """
    for candidate in entries():
        if candidate.name == name:
            return candidate
    raise KeyError(name)
