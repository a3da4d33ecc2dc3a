"""``timm:NAME``: any architecture that timm registers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from cbsurgeon.errors import missing
from cbsurgeon.models import inputs
from cbsurgeon.models.model import Model
from cbsurgeon.models.reference import Reference, unknown_name


def build(reference: Reference, options: dict[str, Any], batch: int, *, pretrained: bool = False) -> Model:
    """Create the model; its input is ``(batch, channels, height, width)`` from its own configuration.

    Its weights are random, or those that timm downloads or has in its cache (``pretrained``).

    Raises:
        UsageError: timm has no such model (``CB-REF-02``).
        MissingPackage: timm is not installed.
    """
    library = _library()
    _require(reference)
    module: nn.Module = library.create_model(reference.name, pretrained=pretrained, **options)
    shape = input_size(module, options)
    return Model(module.eval(), () if shape is None else (inputs.image(batch, *shape),))


def pretrained_source(reference: Reference) -> str:
    """Return the URL of the pretrained weights; empty if they come from the Hugging Face hub, which has its own
    cache."""
    _require(reference)
    configuration = _library().get_pretrained_cfg(reference.name, allow_unregistered=True)
    on_hub = getattr(configuration, "hf_hub_id", None)
    return "" if on_hub else str(getattr(configuration, "url", None) or "")


def knows(name: str) -> bool:
    """Whether timm registers this architecture (a tag of pretrained weights after the dot is allowed)."""
    return bool(_library().is_model(name))


def all_names() -> list[str]:
    """Return the names of all architectures that timm registers."""
    names: list[str] = _library().list_models()
    return names


def input_size(module: nn.Module, options: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Return channels, height and width of the model's input, or ``None`` if timm does not state them."""
    configuration = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {}
    size = configuration.get("input_size")
    if not size or len(size) != 3:
        return None
    channels, height, width = (int(extent) for extent in size)
    asked = options.get("img_size")
    if isinstance(asked, int):
        height = width = asked
    elif isinstance(asked, list | tuple) and len(asked) == 2:
        height, width = (int(extent) for extent in asked)
    return int(options.get("in_chans", channels)), height, width


def with_image_size(reference: Reference, options: dict[str, Any], input: str | None) -> dict[str, Any]:
    """Add ``img_size`` to the options if ``--input`` has another size than the architecture's fixed one.

    Architectures whose weights depend on the image size state it in their configuration (``fixed_input_size``); all
    others take inputs of any size.
    """
    shapes = inputs.parse(input) if input else []
    if len(shapes) != 1 or len(shapes[0].shape) != 3 or "img_size" in options:
        return options
    _require(reference)
    configuration = _library().get_pretrained_cfg(reference.name, allow_unregistered=True)
    default = getattr(configuration, "input_size", None)
    channels, *size = shapes[0].shape
    if default is None:
        return options
    fixed = bool(getattr(configuration, "fixed_input_size", False))
    added: dict[str, Any] = {}
    if fixed and tuple(size) != tuple(default[1:]):
        added["img_size"] = size[0] if size[0] == size[1] else size
    if channels != default[0] and "in_chans" not in options:
        added["in_chans"] = channels
    return {**options, **added}


def translated(module: nn.Module, state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor] | None:
    """Return a published checkpoint with the architecture's keys, as timm converts it when it downloads one.

    Many architectures of timm have a ``checkpoint_filter_fn`` that renames the keys of the authors' files, drops
    buffers that are recomputed, and resizes position embeddings.

    Returns:
        the converted state dict if it has exactly the architecture's keys and shapes, otherwise ``None``.
    """
    home = type(module).__module__
    function = getattr(sys.modules.get(home), "checkpoint_filter_fn", None)
    if not home.startswith("timm.") or not callable(function):
        return None
    try:
        given = function(dict(state), module)
    except Exception:  # the function may raise anything on a file that it was not made for
        return None
    own = module.state_dict()
    fits = isinstance(given, Mapping) and given.keys() == own.keys()
    return given if fits and all(given[key].shape == own[key].shape for key in own) else None


def _require(reference: Reference) -> None:
    library = _library()
    if not library.is_model(reference.name):
        raise unknown_name(reference, library.list_models(), "timm")


def _library() -> Any:
    try:
        import timm
    except ImportError as error:
        raise missing("timm", "timm", "a timm: reference") from error
    return timm


def classifier(module: nn.Module) -> tuple[str, ...]:
    """Return the paths of the classifier's layers, from timm's configuration; empty if it names none."""
    configuration = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {}
    named = configuration.get("classifier") or ()
    return (named,) if isinstance(named, str) else tuple(named)
