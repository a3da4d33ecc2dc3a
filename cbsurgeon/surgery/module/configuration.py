"""The recipe in a transformers configuration, so that ``save_pretrained`` and ``Trainer.save_model`` write it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

KEY = "cbsurgeon"
"""Attribute of the configuration, and key in ``config.json``: a list of recipe documents, oldest first."""


def write(module: nn.Module, documents: Sequence[Mapping[str, Any]]) -> None:
    """Write the recipes of a module into its configuration, in place; an empty list removes the entry.

    The configuration is copied first, and the copy replaces it in every sub-module, because the old object may be
    shared with a model that is not edited.

    Args:
        module: a model; one without a configuration that ``save_pretrained`` writes is left alone.
        documents: the recipes of its operators.
    """
    old = getattr(module, "config", None)
    if not callable(getattr(old, "save_pretrained", None)) or not callable(getattr(module, "save_pretrained", None)):
        return
    if not documents and not hasattr(old, KEY):
        return
    new: Any = copy.copy(old)
    if documents:
        setattr(new, KEY, [dict(document) for document in documents])
    else:
        delattr(new, KEY)
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if value is old:
                vars(part)[name] = new
