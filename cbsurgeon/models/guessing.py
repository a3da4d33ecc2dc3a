"""Find example inputs for any module: from its configuration, or from the sizes of its layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cbsurgeon.errors import UsageError
from cbsurgeon.models import inputs
from cbsurgeon.models.builders import timm, transformers
from cbsurgeon.models.model import Model

BATCH = 2
_COMMON = 224


def with_inputs(module: nn.Module, given: Any = None, batch: int = BATCH) -> Model:
    """Return the module as a model with example inputs.

    Args:
        module: a module in evaluation mode on the CPU.
        given: inputs, if the caller has them: a tensor, a tuple of positional inputs, or a dictionary of keyword
            inputs.
        batch: samples in inputs that are made here.

    Raises:
        UsageError: no inputs are given, and no inputs that are made here fit the module (CB-INPUT-02).
    """
    if given is not None:
        return _given(module, given)
    if hasattr(module, "main_input_name") and hasattr(module, "config"):
        model = transformers.with_inputs(module, batch)
        if model.example_inputs or model.example_kwargs:
            return model
    for channels, height, width in _sizes(module):
        image = inputs.image(batch, channels, height, width)
        if _runs(module, image):
            return Model(module, (image,))
    raise UsageError(
        "the inputs of this module are not known",
        code="CB-INPUT-02",
        where=type(module).__name__,
        why="it has no configuration that describes them, and no image of a usual size fits it",
        do="give them: insert_(module, ..., inputs=x), with x one batch, a tuple, or a dictionary by name",
    )


def _given(module: nn.Module, given: Any) -> Model:
    def plain(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.detach().cpu()
        return value.float() if value.is_floating_point() else value

    if isinstance(given, dict):
        return Model(module, example_kwargs={name: plain(value) for name, value in given.items()})
    positional = given if isinstance(given, tuple | list) else (given,)
    return Model(module, tuple(map(plain, positional)))


def _sizes(module: nn.Module) -> Iterator[tuple[int, int, int]]:
    """Channels, height and width of images that the module may take, the most certain first."""
    convolution = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    if convolution is None:
        return
    channels = convolution.in_channels
    stated = timm.input_size(module, {})
    asked = [vars(part).get(name) for part in module.modules() for name in ("img_size", "image_size")]
    for size in (*asked, stated[1:] if stated else None, _COMMON):
        if isinstance(size, int):
            yield channels, size, size
        elif isinstance(size, tuple | list) and len(size) == 2 and all(isinstance(extent, int) for extent in size):
            yield channels, *size  # type: ignore[misc]


def _runs(module: nn.Module, image: Tensor) -> bool:
    """Whether a module takes an image; tried on one sample."""
    try:
        with torch.no_grad():
            module(image[:1])
    except Exception:  # whatever a module raises on an image it was not made for
        return False
    return True
