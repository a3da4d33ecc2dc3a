"""Find wrapper prefixes and options of the architecture (classes, image size, channels) from a state dict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from cbsurgeon.models.builders import timm
from cbsurgeon.models.checkpoints.fitting import inserted
from cbsurgeon.models.reference import Reference

State = Mapping[str, torch.Tensor]
_COMPILED = "_orig_mod."
_PARALLEL = "module."
_COUNTERS = ("n_averaged",)
_CLASSES = {"timm": "num_classes", "torchvision": "num_classes", "hf": "num_labels"}


def plain(state: State, own: Iterable[str]) -> State:
    """Return the state dict without wrapper prefixes, if its keys then match the architecture better.

    ``torch.compile`` puts ``_orig_mod.`` before keys, and ``DataParallel``, DDP and averaging wrappers put ``module.``.
    A model may have a module of that name itself, so every variant is tried and the one with the most keys of the
    architecture is returned; the file's own keys win a tie. A Lightning module stores the model in an attribute, so the
    keys begin with the name of this attribute, and there may also be keys of losses or metrics. If exactly one prefix
    contains the whole architecture and nothing else, the keys below it are returned.
    """
    wanted = set(own)
    spellings = _spellings(state)
    spellings += [below for spelling in spellings[-1:] if (below := _attribute(spelling, wanted)) is not None]
    return max(spellings, key=lambda spelling: len(wanted.intersection(spelling)))


def _attribute(state: State, wanted: set[str]) -> State | None:
    """The entries below the only prefix that contains exactly the architecture's keys; ``None`` for none or several."""
    if not wanted or wanted.issubset(state):
        return None
    some = f".{min(wanted)}"
    found = []
    for prefix in [key.removesuffix(some[1:]) for key in state if key.endswith(some)]:
        below = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if wanted.issubset(below) and all(inserted(key) for key in below.keys() - wanted):
            found.append(below)
    return found[0] if len(found) == 1 else None


def _spellings(state: State) -> list[State]:
    found = [state]
    compiled = {key.replace(_COMPILED, ""): value for key, value in state.items()}
    if len(compiled) == len(state):
        found.append(compiled)
    inner = {key: value for key, value in compiled.items() if key not in _COUNTERS}
    while inner and all(key.startswith(_PARALLEL) for key in inner):
        inner = {key.removeprefix(_PARALLEL): value for key, value in inner.items()}
        found.append(inner)
    return found


def options(reference: Reference, module: nn.Module, state: State) -> dict[str, Any]:
    """Return the build options that follow from shapes that differ from those of the default architecture.

    ``num_classes`` (``num_labels``) from the only layer whose first axis differs; for timm also ``num_classes=0`` if
    the classifier is absent, ``in_chans`` from the first convolution, and ``img_size`` from the position embedding.
    """
    own = module.state_dict()
    implied: dict[str, Any] = {}
    classes = _classes(own, state)
    if classes is not None:
        implied[_CLASSES[reference.kind]] = classes
    if reference.kind == "timm":
        implied |= _timm(module, own, state)
    return implied


def _classes(own: State, state: State) -> int | None:
    """Number of classes: the first size of all weights that differ only in their first axis, if they agree."""
    rows = {
        state[key].shape[0]
        for key, value in own.items()
        if key in state
        and value.dim() > 0
        and state[key].dim() == value.dim()
        and state[key].shape[1:] == value.shape[1:]
        and state[key].shape[0] != value.shape[0]
    }
    return rows.pop() if len(rows) == 1 else None


def _timm(module: nn.Module, own: State, state: State) -> dict[str, Any]:
    implied: dict[str, Any] = {}
    heads = [key for path in timm.classifier(module) for key in own if key.startswith(f"{path}.")]
    if heads and not any(key in state for key in heads):
        implied["num_classes"] = 0
    configuration = getattr(module, "pretrained_cfg", None) or {}
    first = configuration.get("first_conv")
    key = f"{first}.weight"
    convolution = key in own and key in state and state[key].dim() == own[key].dim() == 4
    if convolution and state[key].shape[1] != own[key].shape[1]:
        implied["in_chans"] = state[key].shape[1]
    size = _image_size(configuration, own, state)
    if size is not None:
        implied["img_size"] = size
    return implied


def _image_size(configuration: Mapping[str, Any], own: State, state: State) -> int | None:
    """Edge of the square image that the file's position embedding ``(1, prefix + grid * grid, C)`` is for.

    The prefix (class and register tokens) is the number of positions of the default architecture beyond a square.
    """
    for key, value in own.items():
        if not key.endswith("pos_embed") or key not in state or state[key].dim() != 3 or value.dim() != 3:
            continue
        default, given = value.shape[1], state[key].shape[1]
        grid = math.isqrt(default)
        edge = (configuration.get("input_size") or (3, 0, 0))[-1]
        wanted = math.isqrt(max(0, given - (default - grid * grid)))
        if default != given and edge % grid == 0 and wanted * wanted + default - grid * grid == given:
            return int(wanted * (edge // grid))
    return None
