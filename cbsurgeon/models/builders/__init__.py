"""Builders: turn a reference and JSON options into a model with random, reproducible weights and example inputs.

Weights are drawn under the fixed seed of :mod:`cbsurgeon.models.seed` on the CPU; nothing is downloaded; the model
comes in evaluation mode. One file per source: ``timm``, ``torchvision``, ``transformers`` (``hf:``) and ``factory``
(``mod:``).

Not here: weights from files (``models.loading``, ``models.files``).
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from cbsurgeon.errors import CBSurgeonError, UsageError
from cbsurgeon.models import inputs as example
from cbsurgeon.models import memory
from cbsurgeon.models.builders import factory, hf_directory, pretrained, timm, torchvision, transformers
from cbsurgeon.models.builders import weightless as without
from cbsurgeon.models.builders.image_processing import with_preprocessing
from cbsurgeon.models.builders.options import checked, reason
from cbsurgeon.models.model import Model, Provenance
from cbsurgeon.models.reference import Reference, parse_builder
from cbsurgeon.models.seed import fixed_seed


def _build_hf(reference: Reference, options: dict[str, Any], batch: int) -> Model:
    """A transformers class by its name, or a model directory by its path."""
    if is_folder(reference):
        return hf_directory.read(Path(reference.name), options, batch)
    return transformers.build(reference, options, batch)


def is_folder(reference: Reference) -> bool:
    """Whether a reference is a folder of trained weights, not an architecture."""
    return reference.kind == "hf" and not reference.name.isidentifier()


_BUILDERS: Mapping[str, Callable[[Reference, dict[str, Any], int], Model]] = {
    "timm": timm.build,
    "torchvision": torchvision.build,
    "hf": _build_hf,
    "mod": factory.build,
}


def build(
    reference: str | Reference,
    *,
    options: Mapping[str, Any] | None = None,
    input: str | None = None,
    inputs: Path | None = None,
    otherwise: str = "",
    batch: int = 2,
    weightless: bool = False,
    operators_follow: bool = False,
    weights: Literal["random", "cached", "downloaded"] = "random",
    most_memory: int | None = None,
) -> Model:
    """Build the architecture that a reference names, in evaluation mode, with example inputs.

    Args:
        reference: ``timm:NAME``, ``torchvision:NAME``, ``hf:CLASS``, ``hf:DIRECTORY`` or
            ``mod:package.module:factory``.
        options: JSON keyword arguments for the builder (``num_classes``, ``img_size``; for ``hf`` the configuration's).
        input: shapes without the batch, ``3x224x224`` or ``3x224x224,16:int64``; overrides the model's own.
        inputs: ``.npz`` file with one array per parameter of ``forward``; overrides the model's own.
        otherwise: shapes as in ``input``, for a model whose inputs are not given and not known.
        batch: size of axis 0 of every example tensor.
        weightless: leave parameters on the meta device if that changes nothing else, because a file has the weights.
        operators_follow: a folder's operators are inserted afterwards, and its weights loaded again; see
            :mod:`cbsurgeon.models.builders.hf_directory`.
        weights: random, from the library's cache, or downloaded by the library.
        most_memory: limit in bytes for parameters, buffers and example inputs; by default a share of the machine's
            memory.

    Returns:
        The model; the same reference and options give the same weights in any process.

    Raises:
        UsageError: unknown name (``CB-REF-02``), the builder refuses the options (``CB-REF-03``), a factory that
            does not exist or returns something else (``CB-REF-04``), inputs that do not parse or are not known
            (``CB-INPUT-*``), or more memory than is allowed (``CB-LOAD-26``).
        InputFileError: pretrained weights are not available (``CB-WEIGHTS-01``).
        MissingPackage: the library is not installed (``CB-MISSING-01``).
    """
    known = parse_builder(reference) if isinstance(reference, str) else reference
    wanted = checked(options or {}, known)
    if batch < 1:
        raise UsageError(
            "the batch must be at least 1", code="CB-INPUT-01", where="batch", why=f"it is {batch}", do="batch=2"
        )
    if known.kind == "timm":
        wanted = timm.with_image_size(known, wanted, input)
    limit = _most_memory(known) if most_memory is None else most_memory
    with memory.limited(limit, f"{known}{f' with {wanted}' if wanted else ''}", temporaries=known.kind != "mod"):
        return _built(known, wanted, batch, weightless, operators_follow, weights, input, inputs, otherwise)


def _most_memory(known: Reference) -> int:
    """The default limit of memory: a share of the machine's for a name; for a folder, by the size of its weights."""
    if not is_folder(known):
        return memory.of_machine()
    return memory.of_file(sum(path.stat().st_size for path in Path(known.name).glob("*.safetensors")))


def _built(
    known: Reference,
    wanted: dict[str, Any],
    batch: int,
    weightless: bool,
    operators_follow: bool,
    weights: Literal["random", "cached", "downloaded"],
    input: str | None,
    inputs: Path | None,
    otherwise: str,
) -> Model:
    if weights != "random":
        made = pretrained.build(known, wanted, batch, download=weights == "downloaded")
        model = _named(made, known, wanted, "pretrained")
    else:
        built = _without_weights(known, wanted, batch) if weightless else None
        model = built or _run(known, wanted, batch, operators_follow)
    if input is None and inputs is None and otherwise and not (model.example_inputs or model.example_kwargs):
        input = otherwise
    if input is not None or inputs is not None:
        return with_preprocessing(example.override(model, input=input, inputs=inputs, batch=batch))
    return with_preprocessing(example.require(model, _tried(model)))


def _tried(model: Model) -> str:
    """The error with which a transformers model refused guessed inputs; empty for other models, or if it has inputs."""
    if model.example_inputs or model.example_kwargs or not hasattr(model.module, "main_input_name"):
        return ""
    return transformers.refusal(model.module)


def skeleton(
    reference: str | Reference, options: Mapping[str, Any], most_modules: int, most_memory: int | None = None
) -> nn.Module | None:
    """Return the architecture without weights (on the meta device), or ``None`` if the builder needs real numbers.

    It needs no memory for tensors, so that what a file claims can be compared with its tensors before anything is
    allocated.

    Raises:
        UsageError: the architecture does not exist, grows beyond ``most_modules`` modules (``CB-REF-06``), or would
            take more memory than ``most_memory`` (``CB-LOAD-26``).
    """
    known = parse_builder(reference) if isinstance(reference, str) else reference
    wanted = checked(options, known)
    if known.kind == "mod":
        return None
    count = itertools.count(1)

    def limit(*_: object) -> None:
        if next(count) > most_modules:
            raise UsageError(
                "the architecture is larger than the file",
                code="CB-REF-06",
                where=f"{known} with {wanted}",
                why=f"it has more than {most_modules} modules, far more than the file has tensors",
                do="check the options, or do not use this file",
            )

    hook = register_module_module_registration_hook(limit)
    most = memory.of_machine() if most_memory is None else most_memory
    try:
        with memory.limited(most, f"{known} with {wanted}"), torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _BUILDERS[known.kind](known, wanted, 1).module
    except (NotImplementedError, RuntimeError):
        # Some constructors read numbers from tensors, which have none on the meta device.
        return None
    except CBSurgeonError:
        raise
    except Exception as error:
        raise _failed(known, wanted, error) from error
    finally:
        hook.remove()


def guess(module: nn.Module, batch: int) -> Model:
    """Return a module as a model, with the example inputs that its configuration implies, if it does."""
    return with_preprocessing(factory.with_inputs(module, {}, batch))


def _run(known: Reference, wanted: dict[str, Any], batch: int, operators_follow: bool) -> Model:
    try:
        with fixed_seed(), torch.device("cpu"):
            if is_folder(known):
                model = hf_directory.read(Path(known.name), wanted, batch, operators_follow=operators_follow)
            else:
                model = _BUILDERS[known.kind](known, wanted, batch)
    except CBSurgeonError:
        raise
    except Exception as error:
        # The builder is code of another library and may raise anything; its message helps the user.
        raise _failed(known, wanted, error) from error
    return _named(model, known, wanted)


def _without_weights(known: Reference, wanted: dict[str, Any], batch: int) -> Model | None:
    """The model with parameters on the meta device; ``None`` if it has to be built with weights.

    That is the case for a transformers model, which is run to find its inputs, and for a user's own factory.
    """
    if known.kind not in ("timm", "torchvision"):
        return None
    try:
        with without.parameters(), fixed_seed() as drew, torch.device("cpu"):
            model = _BUILDERS[known.kind](known, wanted, batch)
            random = drew()
    except Exception:
        # A constructor that reads numbers from its own parameters. Any other error is raised again by the build that
        # follows.
        return None
    whole = model.module is not None and without.complete(model.module, drew=random)
    return _named(model, known, wanted) if whole else None


def _named(model: Model, known: Reference, wanted: dict[str, Any], source: str = "") -> Model:
    """The model with the reference that builds it again, and where its weights come from."""
    if model.provenance.architecture is not None:
        return model
    source = source or ("factory" if known.kind == "mod" else "random")
    return replace(model, provenance=Provenance(str(known), str(known), wanted, source=source))


def _failed(known: Reference, wanted: dict[str, Any], error: Exception) -> UsageError:
    return UsageError(
        "the architecture could not be built",
        code="CB-REF-03",
        where=f"{known}{f' with {wanted}' if wanted else ''}",
        why=reason(error),
        do="check the options against the builder's own documentation",
    )
