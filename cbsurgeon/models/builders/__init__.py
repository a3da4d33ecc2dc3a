"""Builders: a reference and JSON options → a model with random, reproducible weights and inputs that run it.

Weights are drawn under the fixed seed of :mod:`cbsurgeon.models.seed` on the CPU; nothing is downloaded; the model comes
in evaluation mode. One file per source: ``timm``, ``torchvision``, ``transformers`` (``hf:``) and ``factory`` (``mod:``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cbsurgeon.errors import CBSurgeonError, UsageError
from cbsurgeon.models import inputs as example
from cbsurgeon.models.builders import factory, timm, torchvision, transformers
from cbsurgeon.models.builders.options import checked, reason
from cbsurgeon.models.model import Model, Provenance
from cbsurgeon.models.reference import Reference, parse_builder
from cbsurgeon.models.seed import fixed_seed

_BUILDERS: Mapping[str, Callable[[Reference, dict[str, Any], int], Model]] = {
    "timm": timm.build,
    "torchvision": torchvision.build,
    "hf": transformers.build,
    "mod": factory.build,
}


def build(
    reference: str | Reference,
    *,
    options: Mapping[str, Any] | None = None,
    input: str | None = None,
    inputs: Path | None = None,
    batch: int = 2,
) -> Model:
    """Build the architecture a reference names, in evaluation mode, with example inputs.

    Args:
        reference: ``timm:NAME``, ``torchvision:NAME``, ``hf:CLASS``, ``hf:DIRECTORY`` or ``mod:package.module:factory``.
        options: JSON keyword arguments for the builder (``num_classes``, ``img_size``; for ``hf`` the configuration's).
        input: shapes without the batch, ``3x224x224`` or ``3x224x224,16:int64``; overrides the model's own.
        inputs: ``.npz`` file with one array per parameter of ``forward``; overrides the model's own.
        batch: size of axis 0 of every example tensor.

    Returns:
        The model; the same reference and options give the same weights in any process.

    Raises:
        UsageError: unknown name (``CB-REF-02``), the builder refuses the options (``CB-REF-03``), a factory that
            does not exist or returns something else (``CB-REF-04``), inputs that do not parse or are not known
            (``CB-INPUT-*``).
        MissingPackage: the library is not installed (``CB-MISSING-01``).
    """
    known = parse_builder(reference) if isinstance(reference, str) else reference
    wanted = checked(options or {}, known)
    if batch < 1:
        raise UsageError("the batch must be at least 1", code="CB-INPUT-01", why=f"it is {batch}")
    if known.kind == "timm":
        wanted = timm.with_image_size(known, wanted, input)
    model = _run(known, wanted, batch)
    if input is not None or inputs is not None:
        return example.override(model, input=input, inputs=inputs, batch=batch)
    return example.require(model)


def skeleton(reference: str | Reference, options: Mapping[str, Any]) -> nn.Module | None:
    """The same architecture without weights (on the meta device), or ``None`` where the builder needs real numbers.

    Costs no memory, so that a file's claims can be compared with its tensors before anything is allocated.
    """
    known = parse_builder(reference) if isinstance(reference, str) else reference
    if known.kind == "mod":
        return None
    wanted = checked(options, known)
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _BUILDERS[known.kind](known, {**wanted, **_NO_INPUTS}, 1).module
    except (NotImplementedError, RuntimeError):
        return None


_NO_INPUTS: dict[str, Any] = {}


def _run(known: Reference, wanted: dict[str, Any], batch: int) -> Model:
    try:
        with fixed_seed(), torch.device("cpu"):
            model = _BUILDERS[known.kind](known, wanted, batch)
    except CBSurgeonError:
        raise
    except Exception as error:
        # The builder is other people's code and may raise anything; the user needs the sentence, not the class.
        raise UsageError(
            "the architecture could not be built",
            code="CB-REF-03",
            where=f"{known}{f' with {wanted}' if wanted else ''}",
            why=reason(error),
            do="check the options against the builder's own documentation",
        ) from error
    if model.provenance.architecture is None:
        named = Provenance(reference=str(known), architecture=str(known), architecture_options=wanted)
        model = replace(model, provenance=named)
    return model
