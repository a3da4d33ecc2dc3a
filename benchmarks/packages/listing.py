"""The list of models, and helpers that build them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
"""A module, its positional inputs and its keyword inputs."""


@dataclass(frozen=True)
class Sample:
    """A model of a package.

    Attributes:
        package: name of the package on the registry.
        name: the model.
        build: makes it.
        mlps: class names of the modules that are its MLPs, for the operator by hand.
        channels_first: the MLPs' results are ``[batch, channels, ...]``; otherwise ``[batch, ..., channels]``.
        form: the form that a model with a leak needs, ``causal`` or ``masked``; empty for the plain mean.
    """

    package: str
    name: str
    build: Callable[[], Built]
    mlps: tuple[str, ...]
    channels_first: bool = False
    form: str = ""


MODELS: dict[str, Sample] = {}


def model(
    package: str,
    name: str,
    *inputs: Tensor,
    mlps: tuple[str, ...] = ("FeedForward",),
    channels_first: bool = False,
    form: str = "",
    **keywords: Any,
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Decorator that adds a function that builds a module to the list; the inputs are those of its forward pass."""

    def add(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        MODELS[f"{package}/{name}"] = Sample(
            package, name, lambda: (make(), inputs, keywords), mlps, channels_first, form
        )
        return make

    return add


def of(module: str, name: str) -> Any:
    """A class of a package, imported when a model is built."""
    return getattr(importlib.import_module(module), name)
