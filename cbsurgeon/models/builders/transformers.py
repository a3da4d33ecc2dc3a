"""``hf:CLASS``: a transformers model class from its default configuration, with random weights.

No code from a model directory is run, and nothing is downloaded.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from cbsurgeon.errors import UsageError, missing, nearest
from cbsurgeon.models.builders import hf_inputs
from cbsurgeon.models.model import Model
from cbsurgeon.models.reference import Reference, unknown_name


def build(reference: Reference, options: dict[str, Any], batch: int) -> Model:
    """Build a model class from its default configuration, changed by ``options``.

    Raises:
        UsageError: transformers has no such model class (``CB-REF-02``), or its default configuration builds no model
            (``CB-REF-03``).
        MissingPackage: transformers is not installed.
    """
    library = _library()
    module = create(find_class(library, reference), options)
    return with_inputs(module, batch)


def class_names() -> list[str]:
    """Return the names of the model classes of transformers."""
    return [name for name in dir(_library()) if name.endswith(("Model", "Backbone")) or "For" in name]


def find_class(library: Any, reference: Reference) -> Any:
    """Return the model class that a reference names.

    Raises:
        UsageError: there is no such class, it is not a model, or it needs a checkpoint (``CB-REF-02``).
    """
    found: Any = getattr(library, reference.name, None) if reference.name in dir(library) else None
    if found is None:
        raise unknown_name(reference, class_names(), "transformers")
    is_model = inspect.isclass(found) and issubclass(found, library.PreTrainedModel)
    if not is_model or found.config_class is None:
        near = nearest(
            reference.name.removeprefix("Auto"), [n for n in dir(library) if "For" in n or n.endswith("Model")]
        )
        near = [other for other in near if not other.startswith("Auto")]
        raise UsageError(
            f"{reference.name} is not one model architecture",
            code="CB-REF-02",
            where=str(reference),
            why="an Auto class or a processor has no architecture of its own",
            do=f"name a model class, such as hf:{near[0] if near else 'ViTForImageClassification'}, or hf:DIRECTORY",
        )
    return found


def create(model_class: Any, options: dict[str, Any]) -> nn.Module:
    """Return an instance with random weights, in evaluation mode, without a key-value cache."""
    with offline():
        config = model_class.config_class(**options)
        prepare(config)
        module: nn.Module = model_class(config)
    return module.eval()


def prepare(config: Any) -> None:
    """Switch off, in a configuration and those nested in it, the key-value cache and downloads."""
    for each in hf_inputs.nested(config):
        if getattr(each, "use_cache", None):
            each.use_cache = False
        if getattr(each, "use_pretrained_backbone", None):
            each.use_pretrained_backbone = False


def with_inputs(module: nn.Module, batch: int) -> Model:
    """Return the module as a model, with inputs from :mod:`cbsurgeon.models.builders.hf_inputs`, if they are known.

    A single input is positional; several are keyword inputs, in the order of ``forward``.
    """
    if any(parameter.is_meta for parameter in module.parameters()):
        return Model(module)
    found, _ = hf_inputs.find(module, batch)
    order = list(inspect.signature(module.forward).parameters)
    if len(found) == 1 and next(iter(found)) == order[0]:
        return Model(module, tuple(found.values()))
    return Model(module, example_kwargs={name: found[name] for name in order if name in found})


def refusal(module: Any) -> str:
    """Return the error with which the model refused the inputs that were tried."""
    return hf_inputs.find(module, 1)[1]


@contextmanager
def offline() -> Iterator[None]:
    """Keep the hub client off the network, because a configuration can name a backbone to download."""
    constants: Any = sys.modules.get("huggingface_hub.constants")
    if constants is None:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise missing("transformers", "hf", "an hf: reference") from error
    return transformers
