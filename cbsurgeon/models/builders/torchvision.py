"""``torchvision:NAME``: any model that torchvision registers."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from torch import nn

from cbsurgeon.errors import missing
from cbsurgeon.models import inputs
from cbsurgeon.models.model import Model
from cbsurgeon.models.reference import Reference, unknown_name

IMAGE = 224
"""Edge of an image, unless the model's metadata asks for more."""
FLOW = (128, 128)
"""Smallest image that optical-flow models take (they divide it by 8 and correlate over 4 levels)."""
FRAMES = 16
"""Frames of a clip, unless the model's metadata states a number."""


def build(reference: Reference, options: dict[str, Any], batch: int, *, pretrained: bool = False) -> Model:
    """Create the model with the inputs that its family takes: images, clips, image pairs, or a list of images.

    Raises:
        UsageError: torchvision has no such model (``CB-REF-02``).
        MissingPackage: torchvision is not installed.
    """
    library = _library()
    if not knows(reference.name):
        raise unknown_name(reference, library.list_models(), "torchvision")
    builder = library.get_model_builder(reference.name)
    # Detection and segmentation builders download a backbone unless told not to.
    backbone = {"weights_backbone": None} if "weights_backbone" in inspect.signature(builder).parameters else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        module: nn.Module = builder(weights="DEFAULT" if pretrained else None, **backbone, **options)
    return Model(module.eval(), _inputs(library, reference.name, module, batch))


def knows(name: str) -> bool:
    """Whether torchvision registers this model."""
    return name in _library().list_models()


def all_names() -> list[str]:
    """Return the names of all models that torchvision registers."""
    names: list[str] = _library().list_models()
    return names


def _inputs(library: Any, name: str, module: nn.Module, batch: int) -> tuple[Any, ...]:
    family = library.get_model_builder(name).__module__.removeprefix("torchvision.models.").split(".")[0]
    least = _least(library, name)
    edge = getattr(module, "image_size", None)
    size = (edge, edge) if isinstance(edge, int) else tuple(max(IMAGE, extent) for extent in least["min_size"])
    if family == "optical_flow":
        return inputs.image(batch, 3, *FLOW), inputs.image(batch, 3, *FLOW)
    if family == "video":
        return (inputs.image(batch, 3, least["min_temporal_size"] or FRAMES, *size),)
    if family == "detection":
        return (list(inputs.image(batch, 3, *size).unbind()),)
    return (inputs.image(batch, 3, *size),)


def _least(library: Any, name: str) -> dict[str, Any]:
    """The smallest input that any published weights of the model allow."""
    metas = [entry.meta for entry in library.get_model_weights(name)]
    sizes = [tuple(meta["min_size"]) for meta in metas if meta.get("min_size")]
    frames = [meta["min_temporal_size"] for meta in metas if (meta.get("min_temporal_size") or 0) > 1]
    return {"min_size": min(sizes, default=(1, 1)), "min_temporal_size": min(frames, default=None)}


def _library() -> Any:
    try:
        import torchvision.models
    except ImportError as error:
        raise missing("torchvision", "timm", "a torchvision: reference") from error
    return torchvision.models
