"""Pretrained weights as timm and torchvision provide them: from their cache, or downloaded if the user asks for it."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.models.builders import timm, torchvision, transformers
from cbsurgeon.models.builders.options import reason
from cbsurgeon.models.model import Model
from cbsurgeon.models.reference import Reference


def is_tagged(reference: Reference) -> bool:
    """Whether a reference names weights, not only an architecture: ``timm:NAME.TAG``."""
    return reference.kind == "timm" and "." in reference.name


def build(reference: Reference, options: dict[str, Any], batch: int, *, download: bool) -> Model:
    """Return the architecture with its pretrained weights.

    Args:
        reference: ``timm:NAME``, ``timm:NAME.TAG`` or ``torchvision:NAME``.
        options: options of the constructor.
        batch: samples in the example inputs.
        download: fetch weights that are not in the library's cache.

    Raises:
        UsageError: another kind of reference, which has no pretrained weights (``CB-WEIGHTS-02``).
        InputFileError: the weights are not available, or could not be loaded (``CB-WEIGHTS-01``).
    """
    if reference.kind not in ("timm", "torchvision"):
        raise UsageError(
            "--pretrained is for timm: and torchvision: references",
            code="CB-WEIGHTS-02",
            where=str(reference),
            why="other references have no pretrained weights of their own",
            do="name the file or the folder with the weights instead",
        )
    library = timm if reference.kind == "timm" else torchvision
    try:
        with warnings.catch_warnings(), nullcontext() if download else transformers.offline():
            warnings.simplefilter("ignore")
            if not download:
                _refuse_absent(reference)
            made: Model = library.build(reference, options, batch, pretrained=True)
            return made
    except UsageError:
        raise
    except Exception as error:  # network, hub, cache and file errors of several libraries
        raise InputFileError(
            "the pretrained weights are not available",
            code="CB-WEIGHTS-01",
            where=str(reference),
            why=reason(error),
            do="--random-weights for the architecture alone"
            + ("" if download else ", or --pretrained to download them (where the network allows)"),
        ) from error


def _refuse_absent(reference: Reference) -> None:
    """Refuse weights at a plain URL that are not in torch's cache, where they are found by file name."""
    source = timm.pretrained_source(reference)
    if source and not (Path(torch.hub.get_dir()) / "checkpoints" / source.rsplit("/", 1)[-1]).exists():
        raise FileNotFoundError(f"{source} was not downloaded before")
